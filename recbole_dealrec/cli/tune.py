"""``tune``: the best values of keys, found by validation."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_dealrec.cli.run import check_run
from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.config.given import check_names
from recbole_dealrec.config.parameter_space import ALGORITHMS, check_search, parameter_space


def main(arguments: list[str]) -> int:
    """Tune as the arguments describe, print the best values, and return the exit code.

    Raises:
        InputError: invalid input or configuration; names and files are checked before PyTorch is imported.
    """
    parser = argparse.ArgumentParser(
        prog="recbole-dealrec tune",
        description="Tune configuration keys by validation. Any key can follow as --key=value, for all trials.",
        allow_abbrev=False,
    )
    parser.add_argument("--params_file", required=True, help="values to try, in RecBole's format")
    parser.add_argument("--config_files", default="", help="YAML files, separated by spaces")
    parser.add_argument("--algo", default="exhaustive", help=", ".join(ALGORITHMS))
    parser.add_argument("--max_evals", type=int, default=100, help="maximum number of trials of random and bayes")
    parser.add_argument(
        "--early_stop", type=int, default=10, help="trials without improvement before random and bayes stop"
    )
    parser.add_argument("--output_file", help="file for the validation results of all trials")
    options, rest = parser.parse_known_args(arguments)
    given = {**vars(options), "config_file_list": options.config_files.split(), "config_dict": parse_command_line(rest)}
    del given["config_files"]
    _check(given["params_file"], given["config_file_list"], given["config_dict"], given["algo"])
    from recbole_dealrec.tuning import tune

    result = tune(**given)
    print(f"best parameters by validation: {result['best_params']}")
    print(f"test result: {result['test_result']}")
    return 0


def _check(params_file: str, files: Sequence[str], fixed: Mapping[str, Any], algo: str) -> None:
    """Raise InputError if the search, a key of all trials, or a key or value to try is invalid."""
    space = parameter_space(params_file)
    check_search(params_file, space, fixed, algo)
    choices = space.get("choice", {})
    first = {**fixed, **{key: values[0] for key, values in choices.items()}}
    chosen = check_run(files, first)
    check_names([key for keys in space.values() for key in keys], chosen["model"], chosen["surrogate_model"])
    for key, values in choices.items():
        for value in values:
            check_run(files, {**first, key: value})
