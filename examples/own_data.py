"""python examples/own_data.py INTERACTIONS.csv ITEMS.csv Qwen/Qwen2.5-0.5B; select_fewshot names the columns."""

import sys

from recbole_dealrec import select_fewshot

keys = {"prompt_noun": "movie", "samples_per_user": 3, "n_fewshot": 64, "surrogate_epochs": 10}
selected = select_fewshot(sys.argv[1], sys.argv[2], llm_path=sys.argv[3], **keys)
print(selected[["target_title", "influence", "effort", "score"]].to_string())
selected[["prompt", "completion"]].to_json("fewshot.jsonl", orient="records", lines=True)
