"""The command: one run, or a comparison of samplers. What is heavy is imported when it is needed."""

import argparse
import os
import shutil
import sys
import traceback

from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.config.properties import preset_file
from recbole_dealrec.errors import InputError


def main() -> int:
    """Do what ``sys.argv`` says, print errors as one line, and return the exit code."""
    parser = _parser()
    arguments, rest = parser.parse_known_args()
    try:
        if arguments.help or arguments.list:
            print(_text(parser, arguments, rest))
            return 0
        return _run(arguments, rest)
    except InputError as error:
        rank = int(os.environ.get("RANK", 0))
        print(f"error: {f'process {rank}: ' if rank else ''}{error}", file=sys.stderr)
        _show_traceback(arguments)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"error: {_told(error)}; --debug shows the traceback", file=sys.stderr)
        _show_traceback(arguments)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="DEALRec for RecBole. Any configuration key can follow as --key=value.",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("--help", "-h", action="store_true", help="show this and all configuration keys")
    parser.add_argument("--list", action="store_true", help="list datasets, models and samplers")
    parser.add_argument("--model", "-m", help="recommender to fine-tune")
    parser.add_argument("--dataset", "-d", help="name of the dataset")
    parser.add_argument("--sampler", "-s", help="few-shot sampler, or several: A,B,C")
    parser.add_argument("--seeds", help="seeds to compare samplers with: 1,2,3")
    parser.add_argument("--preset", help="paper or released: keys of the paper's text or of its released code")
    parser.add_argument("--config_files", default="", help="YAML files, separated by spaces")
    parser.add_argument("--last_step", default="evaluate", help="score, select, finetune or evaluate")
    parser.add_argument(
        "--dry_run", action="store_true", help="print configuration, steps and an estimate of their cost"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    several = parser.add_argument_group("several processes", "RecBole's options; torchrun and accelerate do as well")
    several.add_argument("--nproc", type=int, default=1, help="processes on this machine")
    several.add_argument("--world_size", type=int, default=-1, help="processes on all machines")
    several.add_argument("--ip", default="localhost", help="address of the first machine")
    several.add_argument("--port", type=int, default=5678, help="free port of the first machine")
    several.add_argument("--group_offset", type=int, default=0, help="number of this machine's first process")
    return parser


def _run(arguments: argparse.Namespace, rest: list[str]) -> int:
    if "RANK" not in os.environ and max(arguments.nproc, arguments.world_size) > 1:
        from recbole_dealrec.distributed.launch import launch

        return launch(
            sys.argv[0], sys.argv[1:], arguments.nproc, arguments.world_size, arguments.ip, arguments.port,
            arguments.group_offset,
        )  # fmt: skip
    presets = [str(preset_file(arguments.preset))] if arguments.preset else []
    common = {
        "model": arguments.model,
        "dataset": arguments.dataset,
        "config_file_list": [*presets, *arguments.config_files.split()],
        "config_dict": parse_command_line(rest),
        "last_step": arguments.last_step,
    }
    samplers = arguments.sampler and arguments.sampler.split(",")
    seeds = arguments.seeds and _whole_numbers(arguments.seeds)
    if arguments.dry_run:
        from recbole_dealrec.cli.dry_run import dry_run_text

        print(dry_run_text(samplers, seeds, **common))
        return 0
    from recbole_dealrec.quick_start import compare_samplers, run_recbole_dealrec

    if seeds is None and len(samplers or [""]) == 1:
        run_recbole_dealrec(sampler=arguments.sampler, **common)
    else:
        compare_samplers(samplers, seeds, **common)
    return 0


def _text(parser: argparse.ArgumentParser, arguments: argparse.Namespace, rest: list[str]) -> str:
    """Return what ``--help`` or ``--list`` prints."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    if arguments.help:
        from recbole_dealrec.cli.help import help_text

        return f"{parser.format_help()}\n{help_text(width)}"
    from recbole_dealrec.cli.listing import list_text

    return list_text(str(parse_command_line(rest).get("data_path", "dataset/")), width)


def _told(error: Exception) -> str:
    """Return an error that was not foreseen in one line, with its place and what may help."""
    from recbole_dealrec.model.memory import out_of_memory

    frame = traceback.extract_tb(error.__traceback__)[-1]
    told = f"{type(error).__name__}: {' '.join(str(error).split())} ({frame.filename}:{frame.lineno})"
    hint = "; lower tokens_per_batch, micro_batch_size or eval_batch_size" if out_of_memory(error) else ""
    return told + hint


def _show_traceback(arguments: argparse.Namespace) -> None:
    if arguments.debug:
        traceback.print_exc()


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds has to be whole numbers separated by commas, not '{text}'") from None
