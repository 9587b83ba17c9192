"""Recommendations of a finished run, from Python and as ``python -m recbole_dealrec.recommend RUN_DIR``."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from recbole_dealrec.config import Config
from recbole_dealrec.config.registry import key_of
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.data import Fields, SequentialDataset, load_splits
from recbole_dealrec.data.frame import token_text
from recbole_dealrec.errors import InputError
from recbole_dealrec.model import LLMRecommender
from recbole_dealrec.model.reweighting import Reweighting
from recbole_dealrec.store.run_folder import check_outputs

_MADE_HERE = ("tiny", "tfidf")  # values of keys that otherwise name files


def recommend(
    run_dir: str | Path, histories: Iterable[Iterable[str]], k: int = 10, exclude_history: bool = False
) -> pd.DataFrame:
    """Return the best ``k`` items for each history, ranked as in the run's evaluation, re-weighted as the run chose.

    Like the evaluation, this ranks items of the history too, unless ``exclude_history`` is set. It reads the run
    folder, its sibling folders, and the dataset and language model named in its ``config.yaml``.

    Args:
        run_dir: folder of a finished run.
        histories: item tokens of each history as in the atomic files, oldest first.
        k: number of items, at most ``num_beams`` for TIGER with ``scoring: beam``.
        exclude_history: whether items of a history are left out of its ranking.

    Returns:
        ``k`` rows for each history, best first: ``history`` (int64, its place in ``histories``), ``rank`` (int64, from
        1), ``item`` (its token), ``title``, ``score`` (float64, comparable within a history alone).

    Raises:
        InputError: the run is not finished or its data or models are missing, a history is empty or has an unknown
            item, or ``k`` is more than the number of ranked items.
    """
    path = Path(run_dir).expanduser().absolute()
    check_outputs(path, ["config.yaml", "result.json"])
    config = Config(config_file_list=[path / "config.yaml"], config_dict=_paths(path))
    weights = config.model_class.weights_folder
    check_outputs(path, [weights, "reweighting"])
    dataset = load_splits(config).train
    items = _item_ids(histories, dataset)
    k = _whole_k(k, config, dataset, max(len(np.unique(row)) for row in items) if exclude_history else 0)
    model = config.model_class.restored(config, dataset, path / weights)
    reweighting = Reweighting.restored(config, dataset, path / "reweighting")
    scores, best = _best(model, reweighting, items, k, exclude_history)
    tokens, titles = dataset.field2id_token[dataset.iid_field], np.array(dataset.titles, dtype=object)
    return pd.DataFrame(
        {
            "history": np.repeat(np.arange(len(items)), k),
            "rank": np.tile(np.arange(1, k + 1), len(items)),
            "item": tokens[best.ravel()],
            "title": titles[best.ravel()],
            "score": scores.ravel(),
        }
    )


def _paths(run_dir: Path) -> dict[str, str]:
    """Return the keys of a run that name files, as seen from the current folder.

    The language model and the semantic IDs are siblings of the run folder, which may have been moved with them. Other
    relative paths begin at the folder that the run was started in, as long as ``checkpoint_dir`` tells it.
    """
    keys = read_yaml(run_dir / "config.yaml")
    saved = Path(keys["checkpoint_dir"])
    told = not saved.is_absolute() and run_dir.parent.parts[-len(saved.parts) :] == saved.parts
    start = run_dir.parents[len(saved.parts)] if told else Path()
    named = {name for name in keys if (key := key_of(name)) and key.kind.path and keys[name] not in _MADE_HERE}
    found = {name: str(start / keys[name]) for name in named if (start / keys[name]).exists()}
    return {**found, "checkpoint_dir": str(run_dir.parent)}


def _item_ids(histories: Iterable[Iterable[str]], dataset: SequentialDataset) -> list[np.ndarray]:
    """Return the internal item ids of each history, int64."""
    histories = list(histories)
    if len(histories) == 0:
        raise InputError("histories: there is none; give a list of item tokens for each")
    tokens = dataset.field2id_token[dataset.iid_field]
    ids = {str(token): number for number, token in enumerate(tokens) if number > 0}
    found = []
    for place, history in enumerate(histories):
        if isinstance(history, str):
            raise InputError(f"histories[{place}] is the text '{history}'; give a list of item tokens")
        if not isinstance(history, Iterable):
            raise InputError(f"histories[{place}] is {history!r}; give a list of item tokens")
        items = [token_text(item) for item in history]
        if not items:
            raise InputError(f"histories[{place}] is empty; give at least one item")
        unknown = [item for item in items if item not in ids]
        if unknown:
            absent = f"{dataset.dataset_name} has no item '{unknown[0]}' with a title"
            raise InputError(f"histories[{place}]: {absent}; leave it out")
        found.append(np.array([ids[item] for item in items], dtype=np.int64))
    return found


def _whole_k(k: float, config: Config, dataset: SequentialDataset, n_excluded: int) -> int:
    most = config.model_class.most_ranked(config, dataset.item_num - 1)
    if not (isinstance(k, Real) and k == int(k) and 1 <= k <= most - n_excluded):
        less = f", less the {n_excluded} of the longest history" if n_excluded else ""
        raise InputError(f"k is {k}; this run of {config['model']} ranks {most} items{less}; give a k from 1 to that")
    return int(k)


@torch.no_grad()
def _best(
    model: LLMRecommender, reweighting: Reweighting, items: Sequence[np.ndarray], k: int, exclude_history: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores, float64, and internal ids, int64, of the ``k`` best items of each history, [n, k] each."""
    config = model.config
    model.eval()
    if config["mixed_precision"] != "no":  # the Accelerator's state is global, so it is created only if needed
        accelerator = Accelerator(mixed_precision=config["mixed_precision"], cpu=config["device"].type == "cpu")
        model.network = accelerator.prepare_model(model.network, evaluation_mode=True)
    scores, best = np.empty((len(items), k)), np.empty((len(items), k), dtype=np.int64)
    for rows, interaction in _batches(items, config):
        interaction = interaction.to(model.device)
        item_scores = model.full_sort_predict(interaction)
        item_scores[:, 0] = -torch.inf
        item_scores = reweighting(item_scores, interaction)
        if exclude_history:
            item_scores[_item_index([items[row] for row in rows])] = -torch.inf
        values, found = torch.topk(item_scores, k)
        scores[rows], best[rows] = values.cpu().numpy(), found.cpu().numpy()
    return scores, best


def _batches(items: Sequence[np.ndarray], config: Config) -> Iterator[tuple[np.ndarray, Interaction]]:
    """Yield rows of ``items`` and their latest items in batches, sorted by length as in an evaluation."""
    fields, size = Fields.of(config), config["eval_batch_size"]
    kept = [torch.from_numpy(row[-config["MAX_ITEM_LIST_LENGTH"] :]) for row in items]
    order = np.argsort([len(row) for row in kept], kind="stable")
    starts = tqdm(range(0, len(order), size), desc="Recommend", ncols=100, disable=not config["show_progress"])
    for start in starts:
        rows = order[start : start + size]
        lengths = torch.tensor([len(kept[row]) for row in rows])
        histories = pad_sequence([kept[row] for row in rows], batch_first=True)
        yield rows, Interaction({fields.history: histories, fields.length: lengths})


def _item_index(items: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Return index tensors of rows and columns for the items of all histories."""
    rows = np.repeat(np.arange(len(items)), [len(row) for row in items])
    return torch.from_numpy(rows), torch.from_numpy(np.concatenate(items))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="recbole-dealrec recommend", description="The best items for histories, from a finished run.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("run_dir", help="folder of the run")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--history", action="append", help="item tokens, oldest first, separated by blanks; repeatable")
    given.add_argument("--histories", metavar="FILE", help="file with such a history on each line; - reads them in")
    parser.add_argument("--k", type=int, default=10, help="number of items for each history (10)")
    parser.add_argument("--exclude_history", action="store_true", help="leave the items of a history out")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each item instead of a table")
    arguments = parser.parse_args(arguments)
    try:
        lines = arguments.history or _lines(arguments.histories)
        histories = [line.split() for line in lines]
        found = recommend(arguments.run_dir, histories, arguments.k, arguments.exclude_history)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(found.to_json(orient="records", lines=True, force_ascii=False), end="")
    else:
        print(found.to_string(index=False))
    return 0


def _lines(file: str) -> list[str]:
    try:
        return (sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")).splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError(f"{file}: cannot be read as text ({error})") from error


class _CallableModule(ModuleType):
    """Make ``recbole_dealrec.recommend`` callable, which is this module as soon as it is imported."""

    __call__ = staticmethod(recommend)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    sys.exit(main())
