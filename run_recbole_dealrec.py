"""Command line: python run_recbole_dealrec.py --dataset=games [--sampler=A,B --seeds=1,2] [--key=value ...]."""

import argparse
import sys

from recbole_dealrec import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.launch import launch
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
    several = parser.add_argument_group("several processes", "RecBole's options; torchrun and accelerate do as well")
    several.add_argument("--nproc", type=int, default=1, help="processes on this machine")
    several.add_argument("--world_size", type=int, default=-1, help="processes on all machines")
    several.add_argument("--ip", default="localhost", help="address of the first machine")
    several.add_argument("--port", type=int, default=5678, help="free port of the first machine")
    several.add_argument("--group_offset", type=int, default=0, help="number of this machine's first process")
    arguments, rest = parser.parse_known_args()
    try:
        if processes.launched_count() == 1 and max(arguments.nproc, arguments.world_size) > 1:
            return launch(
                __file__, sys.argv[1:], arguments.nproc, arguments.world_size, arguments.ip, arguments.port,
                arguments.group_offset,
            )  # fmt: skip
        overrides = parse_command_line(rest)
        files = arguments.config_files.split()
        samplers = arguments.sampler.split(",")
        if arguments.seeds is None and len(samplers) == 1:
            run_recbole_dealrec(arguments.model, arguments.dataset, arguments.sampler, files, overrides)
        else:
            seeds = arguments.seeds and _whole_numbers(arguments.seeds)
            compare_samplers(samplers, seeds, arguments.model, arguments.dataset, files, overrides)
    except InputError as error:
        number = processes.launched_number()
        print(f"error: {f'process {number}: ' if number else ''}{error}", file=sys.stderr)
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
