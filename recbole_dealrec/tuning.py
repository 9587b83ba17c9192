"""Tuning by validation with RecBole's HyperTuning; trials share surrogates, scores and the language model.

python -m recbole_dealrec.tuning --params_file=examples/tuning.hyper --dataset=ml-100k [--key=value ...]
"""

import argparse
import ast
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from recbole.trainer import HyperTuning

from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.errors import InputError
from recbole_dealrec.pipeline import configure
from recbole_dealrec.quick_start import run_recbole_dealrec
from recbole_dealrec.store.console import CONSOLE

ALGORITHMS = ("exhaustive", "random", "bayes")
_NUMBERS = {"uniform": 2, "quniform": 3, "loguniform": 2}
_SEED = "HYPEROPT_FMIN_SEED"  # RecBole passes no seed to hyperopt, which then reads this variable


class _ExhaustiveTuning(HyperTuning):
    """Exhaustive search; RecBole's uses a random generator that hyperopt no longer accepts."""

    def run(self) -> None:
        choices = self.choices
        for values in product(*choices.values()):
            self.trial(dict(zip(choices, values, strict=True)))


def objective_function(
    config_dict: Mapping[str, Any] | None = None, config_file_list: Sequence[str] | None = None, saved: bool = True
) -> dict[str, Any]:
    """Run one trial of RecBole's HyperTuning, without the test part.

    Args:
        config_dict: configuration keys; ``model`` and ``dataset`` may be among them.
        config_file_list: YAML files of configuration keys.
        saved: whether the trial's run folder is kept.

    Returns:
        ``model``, ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``, and an empty ``test_result``.

    Raises:
        InputError: invalid input or configuration.
    """
    keys = {key: _plain(value) for key, value in (config_dict or {}).items()}
    result = run_recbole_dealrec(config_file_list=config_file_list, config_dict=keys, saved=saved, last_step="finetune")
    config = configure(None, None, config_file_list, keys)
    return {
        "model": config["model"],
        "best_valid_score": result["best_valid_result"][config["valid_metric"].lower()],
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": result["best_valid_result"],
        "test_result": {},
    }


def tune(
    params_file: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    algo: str = "exhaustive",
    max_evals: int = 100,
    early_stop: int = 10,
    output_file: str | None = None,
) -> dict[str, Any]:
    """Tune configuration keys by ``valid_metric``, and evaluate the best values on the test part.

    Args:
        params_file: values to try, in RecBole's format: see ``parameter_space``.
        config_file_list: YAML files of configuration keys, for all trials.
        config_dict: configuration keys for all trials, ``model`` and ``dataset`` among them.
        algo: exhaustive (all combinations of choices), random or bayes (tree-structured Parzen estimator).
        max_evals: most trials of random and bayes.
        early_stop: trials without improvement before random and bayes stop.
        output_file: file for the trials' validation results, if any.

    Returns:
        ``best_params``, ``best_valid_score``, ``trials`` (validation results by the trial's parameters), and the result
        of ``run_recbole_dealrec`` for the best parameters.

    Raises:
        InputError: invalid input or configuration, or hyperopt is not installed.
    """
    fixed, space = dict(config_dict or {}), parameter_space(params_file)
    if algo not in ALGORITHMS:
        raise InputError(f"no algo '{algo}'; known are {', '.join(ALGORITHMS)}")
    if algo == "exhaustive" and space.keys() != {"choice"}:
        raise InputError(f"{params_file}: only choices can be tried exhaustively; take --algo=random or bayes")
    if duplicates := {key for keys in space.values() for key in keys} & fixed.keys():
        raise InputError(f"{params_file}: '{min(duplicates)}' is given for all trials too; leave one of them out")
    search = _search(space, fixed, config_file_list, algo=algo, max_evals=max_evals, early_stop=early_stop)
    if output_file:
        search.export_result(str(Path(output_file).expanduser()))
    best = {key: _plain(value) for key, value in search.best_params.items()}
    CONSOLE.info(f"best of {len(search.params2result)} trials by validation: {best}")
    result = run_recbole_dealrec(config_file_list=config_file_list, config_dict={**fixed, **best})
    trials = {name: trial["best_valid_result"] for name, trial in search.params2result.items()}
    return {"best_params": best, "best_valid_score": search.best_score, "trials": trials, **result}


def parameter_space(params_file: str) -> dict[str, dict[str, list]]:
    """Read RecBole's parameter file.

    Its lines are ``key choice [1, 2]``, ``key uniform low,high``, ``key quniform low,high,step`` and ``key loguniform
    low,high`` (natural logarithms), or begin with ``#``. RecBole evaluates choices as Python; here they are literals.

    Returns:
        Kind of range to key to values or limits, the ``params_dict`` of HyperTuning.

    Raises:
        InputError: the file cannot be read, or a line has another form.
    """
    try:
        lines = Path(params_file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"params_file '{params_file}': cannot be read ({error})") from error
    space: dict[str, dict[str, list]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            key, kind, values = _parameter(line, f"{params_file}, line {number}")
            space.setdefault(kind, {})[key] = values
    if not space:
        raise InputError(f"params_file '{params_file}': names no key")
    return space


def _parameter(line: str, place: str) -> tuple[str, str, list]:
    key, kind, text = [*line.split(maxsplit=2), "", ""][:3]
    try:
        values = ast.literal_eval(text if kind == "choice" else f"[{text}]")
    except (ValueError, SyntaxError):
        values = None
    if kind == "choice" and isinstance(values, list) and values:
        return key, kind, values
    if (
        isinstance(values, list)
        and len(values) == _NUMBERS.get(kind)
        and all(isinstance(v, int | float) for v in values)
    ):
        return key, kind, values
    raise InputError(f"{place}: has to be 'key choice [a, b]' or 'key uniform|quniform|loguniform low,high[,step]'")


def _search(space: dict, fixed: dict[str, Any], config_file_list: Sequence[str] | None, **options: Any) -> HyperTuning:
    def objective(keys: dict[str, Any], files: Sequence[str] | None) -> dict[str, Any]:
        return objective_function({**fixed, **keys}, files)

    kind = _ExhaustiveTuning if options["algo"] == "exhaustive" else HyperTuning
    try:
        search = kind(objective, params_dict=space, fixed_config_file_list=config_file_list, **options)
    except ImportError as error:
        raise InputError(f'tuning needs hyperopt: pip install "recbole-dealrec[hyper]" ({error})') from error
    search.choices = space.get("choice", {})
    with _seeded(int(fixed.get("seed", 2020))):
        search.run()
    return search


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    before = os.environ.get(_SEED)
    os.environ[_SEED] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SEED]
        else:
            os.environ[_SEED] = before


def _plain(value: Any) -> Any:
    """Return a value that hyperopt drew as a plain value; it draws integers as floats."""
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recbole_dealrec.tuning",
        description="Tune configuration keys by validation. Any key can follow as --key=value, for all trials.",
        allow_abbrev=False,
    )
    parser.add_argument("--params_file", required=True, help="values to try, in RecBole's format")
    parser.add_argument("--config_files", default="", help="YAML files, separated by spaces")
    parser.add_argument("--algo", default="exhaustive", help=", ".join(ALGORITHMS))
    parser.add_argument("--max_evals", type=int, default=100, help="most trials of random and bayes")
    parser.add_argument(
        "--early_stop", type=int, default=10, help="trials without improvement before random and bayes stop"
    )
    parser.add_argument("--output_file", help="file for the validation results of all trials")
    arguments, rest = parser.parse_known_args()
    options = {**vars(arguments), "config_file_list": arguments.config_files.split()}
    del options["config_files"]
    try:
        result = tune(config_dict=parse_command_line(rest), **options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"best parameters by validation: {result['best_params']}")
    print(f"test result: {result['test_result']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
