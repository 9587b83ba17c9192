"""``select``: a run up to its selection, for other tools to fine-tune on."""

import os
from pathlib import Path

from recbole_dealrec.cli.run import carry_out


def main(arguments: list[str]) -> int:
    """Select few-shot samples, print the file that holds them, and return the exit code."""
    code, run_dirs = carry_out("select", arguments, last_step="select")
    for run_dir in run_dirs if os.environ.get("RANK", "0") == "0" else ():
        print(Path(run_dir) / "fewshot.jsonl")
    return code
