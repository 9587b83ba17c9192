"""python examples/own_data.py INTERACTIONS.csv ITEMS.csv Qwen/Qwen2.5-0.5B; select_fewshot names the columns."""

import sys

import pandas as pd

from recbole_dealrec import select_fewshot

interactions, items = pd.read_csv(sys.argv[1]), pd.read_csv(sys.argv[2])
keys = {"prompt_noun": "movie", "samples_per_user": 3, "n_fewshot": 64, "surrogate_epochs": 10}
selected = select_fewshot(interactions, items, llm_path=sys.argv[3], **keys)
print(selected[["target_title", "influence", "effort", "score"]].to_string())
selected[["prompt", "completion"]].to_json("fewshot.jsonl", orient="records", lines=True)
