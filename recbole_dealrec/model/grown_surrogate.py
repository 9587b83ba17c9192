"""A surrogate that starts from the one that was trained before the dataset grew."""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor

from recbole_dealrec.config import Config
from recbole_dealrec.data import SequentialDataset
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.surrogate import build_surrogate


@torch.no_grad()
def start_from(
    model: SequentialRecommender,
    config: Config,
    dataset: SequentialDataset,
    weights: Mapping[str, Tensor],
    items: Sequence[str],
) -> int:
    """Give a fresh surrogate the weights of an earlier one; items are matched by their tokens, new ones stay fresh.

    Args:
        model: from ``build_surrogate``.
        config: its configuration.
        dataset: training part.
        weights: state of the earlier surrogate.
        items: the item tokens of its dataset by internal item id, padding first.

    Returns:
        How many of the items had weights.

    Raises:
        InputError: it is a surrogate of another shape or of other items, or has parameters of users.
    """
    state = model.state_dict()
    axes = _item_axes(state, config, dataset)
    before = {token: row for row, token in enumerate(items)}
    rows = np.array([before.get(token, -1) for token in item_tokens(dataset)])
    known = int((rows[1:] >= 0).sum())
    if known == 0:
        raise InputError(f"previous_run: its surrogate knows none of the items of {config['dataset']}; name another")
    for name in sorted(state.keys() | weights.keys()):
        found = _expected_shape(state.get(name), axes.get(name), len(rows), len(items))
        if name not in weights or found != tuple(weights[name].shape):
            shape = tuple(weights[name].shape) if name in weights else None
            raise InputError(
                f"previous_run: {name} of its surrogate has the shape {shape}, where {found} is needed; keep "
                "surrogate_model and the keys of its size"
            )
        old = weights[name].to(state[name].device)
        axis = axes.get(name)
        state[name] = old if axis is None else _matched(state[name], old, axis, rows)
    model.load_state_dict(state)
    return known


def item_tokens(dataset: SequentialDataset) -> list[str]:
    """Tokens by internal item id, padding first."""
    return [str(token) for token in dataset.field2id_token[dataset.iid_field]]


def _expected_shape(fresh: Tensor | None, axis: int | None, n_items: int, n_before: int) -> tuple[int, ...] | None:
    """Shape that the parameter had with ``n_before`` items, padding included; None for a parameter there is not."""
    if fresh is None:
        return None
    return tuple(size - (n_items - n_before) * (place == axis) for place, size in enumerate(fresh.shape))


def _matched(fresh: Tensor, old: Tensor, axis: int, rows: np.ndarray) -> Tensor:
    """``fresh`` with what ``old`` has at ``rows`` (-1: nothing) along an axis, and behind the items (mask tokens)."""
    n_before = old.shape[axis] - (fresh.shape[axis] - len(rows))
    rows = torch.from_numpy(np.concatenate([rows, np.arange(n_before, old.shape[axis])])).to(fresh.device)
    matched = fresh.movedim(axis, 0).clone()
    matched[rows >= 0] = old.movedim(axis, 0)[rows[rows >= 0]]
    return matched.movedim(0, axis).contiguous()


def _item_axes(state: Mapping[str, Tensor], config: Config, dataset: SequentialDataset) -> dict[str, int]:
    """The axis of each parameter that has an entry for each item.

    Measured rather than assumed from names: the axes that are longer in a model with one item and two users more.
    """
    grown = copy.copy(dataset)
    item, user = dataset.iid_field, dataset.uid_field
    tokens = dataset.field2id_token
    grown.field2id_token = {**tokens, item: np.append(tokens[item], "+"), user: np.append(tokens[user], ["+", "++"])}
    with torch.random.fork_rng():
        longer = build_surrogate(config, grown).state_dict()
    added = {name: np.subtract(longer[name].shape, value.shape) for name, value in state.items()}
    if of_users := [name for name, sizes in added.items() if (sizes > 1).any()]:
        raise InputError(
            f"previous_run: {config['model']} has a parameter of users, {of_users[0]}, which cannot be taken over; "
            "take another surrogate_model"
        )
    return {name: int(np.argmax(sizes)) for name, sizes in added.items() if sizes.any()}
