"""Recommendations of a finished run, from Python and as ``recbole-dealrec recommend RUN_DIR``."""

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

from recbole_dealrec.config import Config
from recbole_dealrec.data import Fields
from recbole_dealrec.data.catalogue import CATALOGUE, Catalogue, read_histories
from recbole_dealrec.data.frame import token_text
from recbole_dealrec.data.title import distinct_titles
from recbole_dealrec.errors import InputError
from recbole_dealrec.model import LLMRecommender
from recbole_dealrec.model.reweighting import Reweighting
from recbole_dealrec.store.console import progress_bar
from recbole_dealrec.store.latest import named_folder
from recbole_dealrec.store.run_folder import check_outputs


def recommend(
    run_dir: str | Path,
    histories: Iterable[Iterable[str]] | None = None,
    k: int = 10,
    exclude_history: bool = False,
    users: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Return the ``k`` best items for each history or user, ranked and re-weighted as in the run's evaluation.

    Like the evaluation, this also ranks the items of the history, unless ``exclude_history`` is set. It reads only the
    run folder, which may have been moved, and the language model that was fine-tuned, unless it is the tiny one.

    Args:
        run_dir: folder of a finished run.
        histories: item tokens of each history as in the atomic files, oldest first.
        k: number of items, at most ``num_beams`` for TIGER with ``scoring: beam``.
        exclude_history: whether to leave the items of a history out of its ranking.
        users: user tokens, or their ids before a conversion, instead of ``histories``: the history is all interactions
            of the user, including the validation and test parts; the latest ``MAX_ITEM_LIST_LENGTH`` are kept.

    Returns:
        ``k`` rows for each history, best first: ``history`` (int64, its position in ``histories``) or ``user``,
        ``rank`` (int64, from 1), ``item`` (its token), ``title`` (followed by the token in brackets if another item has
        the same title), ``score`` (float64): minus the logarithm of the item's distance, which ranges from 1 (the
        model's first item) to 2 (its last) before the run's re-weighting. Compare scores only within one history.

    Raises:
        InputError: the run is not finished or its model is missing, a history is empty or has an unknown item, a user
            is unknown, or ``k`` is more than the number of ranked items.
    """
    path = named_folder(Path(run_dir).expanduser().absolute())
    check_outputs(path, ["config.yaml", "result.json"])
    config = Config(config_file_list=[path / "config.yaml"])
    weights = config.model_class.weights_folder
    check_outputs(path, [weights, "reweighting", CATALOGUE])
    catalogue = Catalogue.load(config, path / CATALOGUE)
    if (histories is None) == (users is None):
        raise InputError("give either histories or users to recommend for")
    named = None if users is None else _user_tokens(users)
    items = _item_ids(histories if named is None else read_histories(path / CATALOGUE, named), catalogue)
    k = _whole_k(k, config, catalogue, max(len(np.unique(row)) for row in items) if exclude_history else 0)
    model = config.model_class.restored(config, catalogue, path / weights)
    reweighting = Reweighting.restored(config, catalogue, path / "reweighting")
    scores, best = _best(model, reweighting, items, k, exclude_history)
    titles = np.array(distinct_titles(catalogue.titles, catalogue.tokens), dtype=object)
    return pd.DataFrame(
        {
            "history" if named is None else "user": np.repeat(np.arange(len(items)) if named is None else named, k),
            "rank": np.tile(np.arange(1, k + 1), len(items)),
            "item": catalogue.tokens[best.ravel()],
            "title": titles[best.ravel()],
            "score": scores.ravel(),
        }
    )


def _user_tokens(users: Iterable[str]) -> list[str]:
    if isinstance(users, str) or not isinstance(users, Iterable):
        raise InputError(f"users is {users!r}; give a list of user tokens")
    named = [token_text(user) for user in users]
    if not named:
        raise InputError("users: the list is empty; give at least one user token")
    return named


def _item_ids(histories: Iterable[Iterable[str]], catalogue: Catalogue) -> list[np.ndarray]:
    """Return the internal item ids of each history, int64."""
    histories = list(histories)
    if len(histories) == 0:
        raise InputError("histories: the list is empty; give a list of item tokens for each history")
    found = []
    for place, history in enumerate(histories):
        if isinstance(history, str):
            raise InputError(f"histories[{place}] is the string '{history}'; give a list of item tokens")
        if not isinstance(history, Iterable):
            raise InputError(f"histories[{place}] is {history!r}; give a list of item tokens")
        items = [token_text(item) for item in history]
        if not items:
            raise InputError(f"histories[{place}] is empty; give at least one item")
        unknown = [item for item in items if item not in catalogue.item_ids]
        if unknown:
            absent = f"{catalogue.dataset_name} has no item '{unknown[0]}' with a title"
            raise InputError(f"histories[{place}]: {absent}; leave it out")
        found.append(np.array([catalogue.item_ids[item] for item in items], dtype=np.int64))
    return found


def _whole_k(k: float, config: Config, catalogue: Catalogue, n_excluded: int) -> int:
    most = config.model_class.most_ranked(config, catalogue.item_num - 1)
    if not (isinstance(k, Real) and k == int(k) and 1 <= k <= most - n_excluded):
        less = f", minus the {n_excluded} of the longest history" if n_excluded else ""
        raise InputError(f"k is {k}; this run of {config['model']} ranks {most} items{less}; choose k from 1 to that")
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
    starts = progress_bar(range(0, len(order), size), config["show_progress"], desc="recommending")
    for start in starts:
        rows = order[start : start + size]
        lengths = torch.tensor([len(kept[row]) for row in rows])
        histories = pad_sequence([kept[row] for row in rows], batch_first=True)
        yield rows, Interaction({fields.history: histories, fields.length: lengths})


def _item_index(items: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Return index tensors of rows and columns for the items of all histories."""
    rows = np.repeat(np.arange(len(items)), [len(row) for row in items])
    return torch.from_numpy(rows), torch.from_numpy(np.concatenate(items))


class _CallableModule(ModuleType):
    """Make this module callable, because its import sets ``recbole_dealrec.recommend`` to the module."""

    __call__ = staticmethod(recommend)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    from recbole_dealrec.cli.command import main

    sys.exit(main(["recommend", *sys.argv[1:]]))
