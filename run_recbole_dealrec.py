"""Command line: python run_recbole_dealrec.py --dataset=games [--sampler=A,B --seeds=1,2] [--key=value ...]."""

import argparse
import sys

from recbole_dealrec.errors import InputError
from recbole_dealrec.quick_start import compare_samplers, run_recbole_dealrec
from recbole_dealrec.values import parse_command_line


def main() -> int:
    parser = argparse.ArgumentParser(
        description="DEALRec for RecBole. Any configuration key can follow as --key=value.", allow_abbrev=False
    )
    parser.add_argument("--model", "-m", default="BIGRec", help="recommender to fine-tune")
    parser.add_argument("--dataset", "-d", default="ml-100k", help="name of the dataset")
    parser.add_argument("--sampler", "-s", default="DEALRec", help="few-shot sampler, or several: A,B,C")
    parser.add_argument("--seeds", help="seeds to compare samplers with: 1,2,3")
    parser.add_argument("--config_files", default="", help="YAML files, separated by spaces")
    arguments, rest = parser.parse_known_args()
    try:
        overrides = parse_command_line(rest)
        files = arguments.config_files.split()
        samplers = arguments.sampler.split(",")
        if arguments.seeds is None and len(samplers) == 1:
            run_recbole_dealrec(arguments.model, arguments.dataset, arguments.sampler, files, overrides)
        else:
            seeds = arguments.seeds and _whole_numbers(arguments.seeds)
            compare_samplers(samplers, seeds, arguments.model, arguments.dataset, files, overrides)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds has to be whole numbers separated by commas, not '{text}'") from None


if __name__ == "__main__":
    sys.exit(main())
