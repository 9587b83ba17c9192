"""The data that a finished run keeps: the catalogue, and each user's history."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureType
from safetensors.torch import load_file, save_file

from recbole_dealrec.config import Config
from recbole_dealrec.data.candidates import CandidateSamples, Fields
from recbole_dealrec.data.convert.writing import atomic_token
from recbole_dealrec.data.dataset import SequentialDataset
from recbole_dealrec.data.splits import Splits
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.run_folder import RunFolder

CATALOGUE = "catalogue"  # output of a run
_ITEMS, _FEATURES, _FIELDS, _HISTORIES = "items.jsonl", "features.safetensors", "fields.json", "histories.jsonl"
_COLUMNS = ("item", "title", "text", "count")


@dataclass(frozen=True)
class Catalogue:
    """The data of a training part that recommenders and surrogates are built from, under RecBole's names.

    Attributes:
        config: configuration of the run.
        tokens: item tokens by internal item id, the padding token first.
        titles: titles by internal item id.
        item_texts: texts of the items of a history in a prompt, by internal item id.
        item_counts: interactions of each item in the training part, int64 [n_items].
        features: RecBole's item features.
        sizes: RecBole's ``num`` of the users, the items and the features, by field.
        types: type of each of these fields, such as ``token``.
    """

    config: Config
    tokens: np.ndarray
    titles: list[str]
    item_texts: list[str]
    item_counts: np.ndarray
    features: dict[str, torch.Tensor]
    sizes: dict[str, int]
    types: dict[str, str]

    @classmethod
    def of(cls, dataset: SequentialDataset) -> "Catalogue":
        """Return the catalogue of a training part."""
        features = dataset.get_item_feature().interaction
        fields = [dataset.uid_field, *features]
        sizes = {name: int(dataset.num(name)) for name in fields}
        types = {name: dataset.field2type[name].value for name in fields}
        tokens = dataset.field2id_token[dataset.iid_field]
        texts = dataset.titles, dataset.item_texts
        return cls(dataset.config, tokens, *texts, dataset.item_counts, features, sizes, types)

    @classmethod
    def load(cls, config: Config, folder: Path) -> "Catalogue":
        """Return the catalogue that ``save`` wrote to a folder."""
        items = list(_lines(folder / _ITEMS))
        tokens, *texts, counts = ([item[name] for item in items] for name in _COLUMNS)
        fields = json.loads((folder / _FIELDS).read_text(encoding="utf-8"))
        features = load_file(folder / _FEATURES)
        return cls(config, np.array(tokens, object), *texts, np.array(counts, np.int64), features, **fields)

    def save(self, folder: Path) -> None:
        """Write the items as JSON lines and their features to a folder."""
        columns = map(str, self.tokens), self.titles, self.item_texts, self.item_counts.tolist()
        rows = (dict(zip(_COLUMNS, row, strict=True)) for row in zip(*columns, strict=True))
        _write_lines(folder / _ITEMS, rows)
        save_file({name: values.contiguous() for name, values in self.features.items()}, folder / _FEATURES)
        fields = json.dumps({"sizes": self.sizes, "types": self.types}, indent=2)
        (folder / _FIELDS).write_text(fields + "\n", encoding="utf-8")

    @property
    def dataset_name(self) -> str:
        return self.config["dataset"]

    @property
    def uid_field(self) -> str:
        return self.config["USER_ID_FIELD"]

    @property
    def iid_field(self) -> str:
        return self.config["ITEM_ID_FIELD"]

    @property
    def item_num(self) -> int:
        return len(self.tokens)

    @property
    def user_num(self) -> int:
        return self.sizes[self.uid_field]

    @property
    def field2id_token(self) -> dict[str, np.ndarray]:
        return {self.iid_field: self.tokens}

    @property
    def field2type(self) -> dict[str, FeatureType]:
        return {name: FeatureType(kind) for name, kind in self.types.items()}

    @property
    def field2seqlen(self) -> dict[str, int]:
        return {Fields.of(self.config).history: self.config["MAX_ITEM_LIST_LENGTH"]}

    @property
    def inter_feat(self) -> Interaction:
        """Return no interactions; models such as FEARec read those that they train on."""
        fields, none = Fields.of(self.config), torch.empty(0, dtype=torch.int64)
        empty = {name: none for name in (fields.user, fields.item, fields.length)}
        return Interaction({**empty, fields.history: none.view(0, self.config["MAX_ITEM_LIST_LENGTH"])})

    def num(self, field: str) -> int:
        """Return the number of different values of a field, padding included."""
        return self.sizes[field]

    def get_item_feature(self) -> Interaction:
        """Return the features of all items."""
        return Interaction(self.features)

    @cached_property
    def item_ids(self) -> dict[str, int]:
        """Return the internal item ids by token."""
        return {str(token): number for number, token in enumerate(self.tokens) if number > 0}


def keep_catalogue(folder: RunFolder, splits: Splits) -> None:
    """Write the catalogue and the users' histories to a run folder, if it has none."""
    if not folder.has(CATALOGUE):
        with folder.output(CATALOGUE) as path:
            path.mkdir()
            Catalogue.of(splits.train).save(path)
            save_histories(splits, path)


def save_histories(splits: Splits, folder: Path) -> None:
    """Write each user's interactions, oldest first and at most ``MAX_ITEM_LIST_LENGTH``, as a line of JSON.

    They are the history of the user's latest query in any part, followed by its targets.
    """
    users, items = (splits.train.field2id_token[name] for name in (splits.train.uid_field, splits.train.iid_field))
    longest = splits.train.config["MAX_ITEM_LIST_LENGTH"]
    rows = (
        {"user": str(users[user]), "history": [str(items[item]) for item in history[-longest:]]}
        for user, history in _latest_histories(splits)
    )
    _write_lines(folder / _HISTORIES, rows)


def read_histories(folder: Path, users: list[str]) -> list[list[str]]:
    """Return the item tokens of users, oldest first, that ``save_histories`` wrote.

    Args:
        folder: the catalogue's folder.
        users: user tokens, or original ids that the converter percent-encoded.

    Raises:
        InputError: a user is unknown.
    """
    wanted = {*users, *map(atomic_token, users)}
    found = {row["user"]: row["history"] for row in _lines(folder / _HISTORIES) if row["user"] in wanted}
    tokens = [user if user in found else atomic_token(user) for user in users]
    for user, token in zip(users, tokens, strict=True):
        if token not in found:
            raise InputError(f"no user '{user}' with two items or more in the data of this run; give a history instead")
    return [found[token] for token in tokens]


def _latest_histories(splits: Splits) -> Iterator[tuple[int, np.ndarray]]:
    """Yield internal ids of users and of all their items, from the last part that contains the user."""
    known = np.zeros(splits.train.user_num, dtype=bool)
    for part in (splits.test, splits.valid, splits.train):
        users = part.inter_feat[part.uid_field].numpy()
        rows = np.flatnonzero(~known[users])
        known[users] = True
        yield from _with_targets(part, rows)


def _with_targets(part: SequentialDataset, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each user of some rows and the latest history, followed by the targets of all rows of this history."""
    fields, feat = Fields.of(part.config), part.inter_feat
    rows = rows[np.argsort(feat[fields.user].numpy()[rows], kind="stable")]
    users, lengths = (feat[name].numpy()[rows] for name in (fields.user, fields.length))
    last = np.searchsorted(users, users, side="right") - 1
    same = np.flatnonzero(lengths == lengths[last])  # few rows are left for a full comparison
    samples, latest = (CandidateSamples.of_rows(part, rows[places]) for places in (same, last[same]))
    samples = samples[(samples.item_id_list == latest.item_id_list).all(axis=1)]
    _, starts = np.unique(samples.user_id, return_index=True)
    for places in np.split(np.arange(len(samples)), starts[1:]) if len(samples) else ():
        yield int(samples.user_id[places[0]]), np.append(samples.history(places[0]), samples.item_id[places])


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with open(file, encoding="utf-8") as stream:
        yield from map(json.loads, stream)


def _write_lines(file: Path, rows: Iterator[dict[str, Any]]) -> None:
    with open(file, "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
