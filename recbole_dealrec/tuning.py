"""Tuning by validation with RecBole's HyperTuning; trials share surrogates, scores and the language model."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from recbole.trainer import HyperTuning

from recbole_dealrec.config.parameter_space import check_search, parameter_space
from recbole_dealrec.errors import InputError
from recbole_dealrec.pipeline import configure
from recbole_dealrec.quick_start import run_recbole_dealrec
from recbole_dealrec.store.console import CONSOLE

_SEED = "HYPEROPT_FMIN_SEED"  # RecBole passes no seed to hyperopt, which then reads this variable


class _ExhaustiveTuning(HyperTuning):
    """Exhaustive search; RecBole's version uses a random generator that hyperopt no longer accepts."""

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
        max_evals: maximum number of trials of random and bayes.
        early_stop: trials without improvement before random and bayes stop.
        output_file: file for the trials' validation results, if any.

    Returns:
        ``best_params``, ``best_valid_score``, ``trials`` (validation results by the trial's parameters), and the result
        of ``run_recbole_dealrec`` for the best parameters.

    Raises:
        InputError: invalid input or configuration, or hyperopt is not installed.
    """
    fixed, space = dict(config_dict or {}), parameter_space(params_file)
    check_search(params_file, space, fixed, algo)
    search = _search(space, fixed, config_file_list, algo=algo, max_evals=max_evals, early_stop=early_stop)
    if output_file:
        search.export_result(str(Path(output_file).expanduser()))
    best = {key: _plain(value) for key, value in search.best_params.items()}
    CONSOLE.info(f"best of {len(search.params2result)} trials by validation: {best}")
    result = run_recbole_dealrec(config_file_list=config_file_list, config_dict={**fixed, **best})
    trials = {name: trial["best_valid_result"] for name, trial in search.params2result.items()}
    return {"best_params": best, "best_valid_score": search.best_score, "trials": trials, **result}


def _search(space: dict, fixed: dict[str, Any], config_file_list: Sequence[str] | None, **options: Any) -> HyperTuning:
    def objective(keys: dict[str, Any], files: Sequence[str] | None) -> dict[str, Any]:
        return objective_function({**fixed, **keys}, files)

    kind = _ExhaustiveTuning if options["algo"] == "exhaustive" else HyperTuning
    try:
        search = kind(objective, params_dict=space, fixed_config_file_list=config_file_list, **options)
    except ImportError as error:
        raise InputError(f'tuning needs hyperopt: pip install -e ".[hyper]" in the checkout ({error})') from error
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
    """Return a value drawn by hyperopt as a plain value; hyperopt draws integers as floats."""
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


if __name__ == "__main__":
    from recbole_dealrec.cli.command import main

    sys.exit(main(["tune", *sys.argv[1:]]))
