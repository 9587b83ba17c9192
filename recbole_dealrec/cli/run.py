"""``run``: one run, or a comparison of several samplers or seeds."""

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.config.given import check_given, check_last_step
from recbole_dealrec.config.key import LAST_STEPS
from recbole_dealrec.config.properties import preset_file, recbole_default
from recbole_dealrec.data.download.known_dataset import IN_RECBOLE, check_dataset
from recbole_dealrec.errors import InputError


def main(arguments: list[str]) -> int:
    """Run what the arguments describe, and return the exit code."""
    return carry_out("run", arguments)[0]


def carry_out(
    name: str, words: Sequence[str], compared: bool = False, last_step: str | None = None
) -> tuple[int, list[str]]:
    """Run or compare as a command line describes, or print the text that it asks for.

    Args:
        name: the subcommand.
        words: its options.
        compared: whether to write a comparison even for one sampler with one seed.
        last_step: the last step; None to read it from ``--last_step``.

    Returns:
        The exit code and the run folders.

    Raises:
        InputError: invalid input or configuration; names and files are checked before PyTorch is imported.
    """
    parser = _parser(name, last_step)
    options, rest = parser.parse_known_args(words)
    if options.help is not None or options.list:
        print(_text(parser, options, rest))
        return 0, []
    common = _common(options, rest)
    samplers = options.sampler and options.sampler.split(",")
    seeds = options.seeds and _whole_numbers(options.seeds)
    _check(samplers, common)
    if "RANK" not in os.environ and max(options.nproc, options.world_size) > 1:
        return _launch(options, [name, *words]), []
    if options.dry_run:
        from recbole_dealrec.cli.dry_run import dry_run_text

        print(dry_run_text(samplers, seeds, **common))
        return 0, []
    from recbole_dealrec.quick_start import compare_samplers, run_recbole_dealrec

    if compared or seeds is not None or len(samplers or [""]) > 1:
        return 0, list(compare_samplers(samplers, seeds, **common)["runs"]["run_dir"])
    return 0, [run_recbole_dealrec(sampler=options.sampler, **common)["run_dir"]]


def _parser(name: str, last_step: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        usage=f"recbole-dealrec {f'[{name}]' if name == 'run' else name} [options] [--key=value ...]",
        description="DEALRec for RecBole. Any configuration key can follow as --key=value.",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("--help", "-h", nargs="?", const="", metavar="TOPIC", help="show this, or keys: all, influence")
    parser.add_argument("--list", action="store_true", help="list datasets, models and samplers")
    parser.add_argument("--model", "-m", help="recommender to fine-tune")
    parser.add_argument("--dataset", "-d", help="name of the dataset")
    parser.add_argument("--sampler", "-s", help="few-shot sampler, or several: A,B,C")
    parser.add_argument("--seeds", help="seeds to compare samplers with: 1,2,3")
    parser.add_argument("--preset", help="paper or released: keys of the paper's text or of its released code")
    parser.add_argument("--config_files", default="", help="YAML files, separated by spaces")
    parser.set_defaults(last_step=last_step)
    if last_step is None:
        parser.add_argument("--last_step", default=LAST_STEPS[-1], help="score, select, finetune or evaluate")
    parser.add_argument(
        "--dry_run", action="store_true", help="print configuration, steps and an estimate of their cost"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors; for every subcommand")
    several = parser.add_argument_group("several processes", "RecBole's options; torchrun and accelerate also work")
    several.add_argument("--nproc", type=int, default=1, help="processes on this machine")
    several.add_argument("--world_size", type=int, default=-1, help="processes on all machines")
    several.add_argument("--ip", default="localhost", help="address of the first machine")
    several.add_argument("--port", type=int, default=5678, help="free port of the first machine")
    several.add_argument("--group_offset", type=int, default=0, help="rank of this machine's first process")
    return parser


def _common(options: argparse.Namespace, rest: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that a run, a comparison and a dry run share."""
    presets = [str(preset_file(options.preset))] if options.preset else []
    return {
        "model": options.model,
        "dataset": options.dataset,
        "config_file_list": [*presets, *options.config_files.split()],
        "config_dict": parse_command_line(rest),
        "last_step": options.last_step,
    }


def _check(samplers: Sequence[str] | None, common: Mapping[str, Any]) -> None:
    """Raise InputError if a name or a file is invalid."""
    check_last_step(common["last_step"])
    named = {key: common[key] for key in ("model", "dataset") if common[key] is not None}
    for sampler in samplers or [None]:
        keys = {**named, **({"sampler": sampler} if sampler else {}), **common["config_dict"]}
        check_run(common["config_file_list"], keys)


def check_run(files: Sequence[str], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a run after ``check_given``; raise InputError if the dataset is absent and unknown."""
    chosen = check_given(files, keys)
    if chosen["dataset"] != IN_RECBOLE:
        folder = Path(chosen.get("data_path", recbole_default("data_path"))).expanduser() / chosen["dataset"]
        check_dataset(folder, bool(chosen.get("benchmark_filename")))
    return chosen


def _launch(options: argparse.Namespace, words: Sequence[str]) -> int:
    """Run the same command in several processes, and return the exit code."""
    from recbole_dealrec.distributed.launch import launch

    script = Path(sys.argv[0])
    program = ["-m", "recbole_dealrec"] if script.name == "__main__.py" else [str(script)]
    words = [*words, *(["--debug"] if "--debug" in sys.argv else [])]  # removed by ``cli.command.main``
    several = options.nproc, options.world_size, options.ip, options.port, options.group_offset
    return launch(program[0], [*program[1:], *words], *several)


def _text(parser: argparse.ArgumentParser, options: argparse.Namespace, rest: Sequence[str]) -> str:
    """Return what ``--help`` or ``--list`` prints."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    if options.help is not None:
        from recbole_dealrec.cli.help import common_text, help_text, subcommands_text

        if options.help:
            return help_text(width, options.help)
        return "\n".join([parser.format_help(), subcommands_text(width), "", common_text(width)])
    from recbole_dealrec.cli.listing import list_text

    return list_text(str(parse_command_line(rest).get("data_path", recbole_default("data_path"))), width)


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds has to be whole numbers separated by commas, not '{text}'") from None
