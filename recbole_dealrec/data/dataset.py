"""RecBole's sequential dataset with titles."""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from logging import getLogger
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import SequentialDataset as RecBoleSequentialDataset
from recbole.utils import FeatureSource, FeatureType

from recbole_dealrec.config import Config
from recbole_dealrec.data.atomic import AtomicFile
from recbole_dealrec.data.candidates import Fields
from recbole_dealrec.data.download.library import download_if_absent
from recbole_dealrec.data.parquet_file import ParquetFile
from recbole_dealrec.data.sequence import item_counts
from recbole_dealrec.data.sliced_rows import SlicedRows, prefix_rows
from recbole_dealrec.data.title import TITLE, read_item_texts, read_titles
from recbole_dealrec.data.typed_file import TypedFile
from recbole_dealrec.errors import InputError


class SequentialDataset(RecBoleSequentialDataset):
    """RecBole's sequential dataset with titles, exact time order, and histories that keep their latest items.

    Items without a title are left out of the catalogue, the targets and the histories. Rows are ``SlicedRows``.
    Without benchmark files, interactions may lie in ``<dataset>.inter.parquet`` in place of ``<dataset>.inter``.

    RecBole converts time to float32, in which Unix seconds within two minutes are equal. Here, after the filters, the
    time column holds the positions of rows in the time order of their file, int32; rows with equal times keep the order
    of the file. Benchmark files have it where ``load_col`` names it.

    Attributes:
        titles: titles by internal item id.
        item_texts: text of an item in a history in a prompt, ``prompt_item`` filled in, by internal item id.
        n_read: number of rows in the files.
        n_left_out: number of these rows that are left out because a title is missing.
        n_untitled: number of items without a title.
        n_repeated: number of rows that repeat another.
        n_rows: number of rows that are left after RecBole's filters.
        span: earliest and latest time in the files, None if they have none.
    """

    def __init__(self, config: Config) -> None:
        self._item_file = AtomicFile.of(Path(config["data_path"]) / f"{config['dataset']}.item", config)
        self._untitled: dict[str, None] = {}  # in the order of the files
        self.n_read = self.n_left_out = self.n_repeated = 0
        self.span: tuple[float, float] | None = None
        self._places = pd.Series(dtype=np.int32)
        super().__init__(config)
        self.n_rows, self.n_untitled = len(self.inter_feat), len(self._untitled)
        tokens = self.field2id_token[self.iid_field][1:]
        self.titles = ["", *(self._title_of[token] for token in tokens)]
        self.item_texts = self.titles
        if "prompt_item" in config and config["prompt_item"] != TITLE:
            fields = self.iid_field, config["title_field"]
            texts = read_item_texts(self._item_file, *fields, config["prompt_item"])
            self.item_texts = ["", *(texts[token] for token in tokens)]
        self._warn_of_untitled()

    @property
    def item_counts(self) -> np.ndarray:
        """Return the number of interactions of each item in this part, int64 [n_items]."""
        return item_counts(self)

    @cached_property
    def _title_of(self) -> dict[str, str]:
        return read_titles(self._item_file, self.iid_field, self.config["title_field"])

    def _warn_of_untitled(self) -> None:
        if self._untitled:
            getLogger().warning(
                f"{self._item_file.path}: {len(self._untitled)} items of the interactions have no title and are left "
                f"out, with {self.n_left_out} rows; the first is {next(iter(self._untitled))}"
            )

    def _remove_duplication(self) -> None:
        times = self.inter_feat[self.time_field]
        self.inter_feat[self.time_field] = self._places  # RecBole's sort of equal times is not stable
        super()._remove_duplication()
        self.inter_feat[self.time_field] = times

    def _reset_index(self) -> None:
        self._places = self._places[self.inter_feat.index]
        super()._reset_index()

    def _dataframe_to_interaction(self, data):
        make = super()._dataframe_to_interaction
        if data is not self.inter_feat:
            return make(data)
        interaction = make(data) if self.benchmark_filename_list is None else self._sliced(data)
        if self.time_field in data:
            interaction.interaction[self.time_field] = torch.from_numpy(self._places.to_numpy(np.int32))
        return interaction

    def _sliced(self, data: pd.DataFrame) -> SlicedRows:
        """Return the rows of benchmark files, with their histories end to end."""
        fields = Fields.of(self.config)
        columns = super()._dataframe_to_interaction(data.drop(columns=fields.history)).interaction
        flat = {fields.history: torch.from_numpy(np.concatenate(data[fields.history].to_numpy()))}
        size = columns[fields.length]
        return SlicedRows(columns, flat, size.cumsum(0) - size, size, int(size.max()))

    def data_augmentation(self) -> None:
        """Make a row of each interaction that has a history, as RecBole does, but keep the histories as slices."""
        self._aug_presets()
        self.sort(by=[self.uid_field, self.time_field])
        names = {name: getattr(self, f"{name}_list_field") for name in self.inter_feat if name != self.uid_field}
        self.inter_feat = prefix_rows(
            self.inter_feat, self.uid_field, self.item_list_length_field, names, self.max_item_list_len
        )

    def __getitem__(self, index, join=True):
        rows = super().__getitem__(index, join)
        return rows.padded() if isinstance(rows, SlicedRows) else rows

    def _benchmark_presets(self) -> None:
        history = Fields.of(self.config).history
        longest = self.config["MAX_ITEM_LIST_LENGTH"]
        self.inter_feat[history] = self.inter_feat[history].map(lambda items: items[-longest:])
        super()._benchmark_presets()

    def _load_inter_feat(self, token, dataset_path):
        text = Path(dataset_path) / f"{token}.inter"
        parquet = text.with_name(f"{text.name}.parquet")
        if self.benchmark_filename_list is not None or not parquet.exists():
            super()._load_inter_feat(token, dataset_path)
        elif text.exists():
            raise InputError(f"{parquet}: {text.name} lies beside it; remove one of them")
        else:
            file = ParquetFile(parquet)
            self.inter_feat = self._load_interactions(file, lambda: self._read_parquet(file))

    def _read_parquet(self, file: ParquetFile) -> pd.DataFrame:
        """Return the columns that ``load_col`` and ``unload_col`` leave, and tell RecBole of them."""
        wanted, unwanted = self._get_load_and_unload_col(FeatureSource.INTERACTION)
        kinds = {
            name: kind
            for name, kind in file.columns().items()
            if (wanted is None or name in wanted) and name not in (unwanted or ())
        }
        for name, kind in kinds.items():
            self.set_field_property(name, FeatureType(kind), FeatureSource.INTERACTION, 1)
            if kind == FeatureType.FLOAT.value:
                self.field2bucketnum[name] = 2
        return file.frame(list(kinds))

    def _load_feat(self, filepath, source):
        if source is FeatureSource.INTERACTION:
            file = AtomicFile.of(filepath, self.config)
            return self._load_interactions(file, lambda: self._load_by_recbole(filepath, source))
        feat = self._load_by_recbole(filepath, source)
        is_items = source is FeatureSource.ITEM and feat is not None
        return feat[feat[self.iid_field].isin(self._title_of)] if is_items else feat

    def _load_by_recbole(self, filepath, source):
        try:
            return super()._load_feat(filepath, source)
        except (ValueError, TypeError) as error:
            raise InputError(f"{filepath}: holds no row, or is not an atomic file of RecBole: {error}") from error

    def _load_interactions(self, file: TypedFile, read: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        needed = self._needed_columns(file)
        file.check_rows(needed)
        try:
            feat = read()
        except InputError:
            if self.time_field in needed:
                file.check_numbers(self.time_field)
            raise
        if feat.empty:
            raise InputError(f"{file.path}: holds no row below its header")
        if absent := [name for name in needed if name not in feat]:
            raise InputError(f"configuration key 'load_col' has no column '{absent[0]}'; add it to load_col")
        for name, kind in needed.items():
            if kind != FeatureType.FLOAT.value:
                file.check_present(feat[name])
        self.n_read += len(feat)
        titled = self._titled(feat, file)
        if self.time_field in needed:
            self._read_times(feat, titled.index, file)
        return titled

    def _read_times(self, feat: pd.DataFrame, kept: pd.Index, file: TypedFile) -> None:
        """Read the times of a file's rows exactly, of which those at ``kept`` are used."""
        times, is_split = feat[self.time_field], self.benchmark_filename_list is not None
        if not np.isfinite(times).all():
            file.check_numbers(self.time_field)
        if not is_split:
            self.n_repeated = file.n_repeated(feat[[self.uid_field, self.iid_field, self.time_field]])
        spans = [*(self.span or ()), float(times.min()), float(times.max())]
        self.span = min(spans), max(spans)
        places = pd.Series(file.places(self.time_field))[kept]
        self._places = pd.concat([self._places, places], ignore_index=is_split)

    def _titled(self, feat: pd.DataFrame, file: TypedFile) -> pd.DataFrame:
        """Return interactions without untitled items, and without rows that then have no target or no history.

        Raises:
            InputError: no row is left.
        """
        titles, history = self._title_of, Fields.of(self.config).history
        kept = feat[self.iid_field].isin(titles)
        self._untitled.update(dict.fromkeys(feat.loc[~kept, self.iid_field]))
        if self.benchmark_filename_list is not None:
            named = dict.fromkeys(chain.from_iterable(feat[history]))
            if untitled := [item for item in named if item not in titles]:
                self._untitled.update(dict.fromkeys(untitled))
                feat[history] = [np.array([item for item in items if item in titles]) for items in feat[history]]
                kept &= feat[history].str.len() > 0
        if not kept.any():
            items = f"the {feat[self.iid_field].nunique()} items of the interactions in {file.path.name}"
            raise InputError(f"{self._item_file.path}: none of {items} has a title")
        self.n_left_out += int((~kept).sum())
        return feat if kept.all() else feat[kept]

    def _needed_columns(self, file: TypedFile) -> dict[str, str]:
        """Return the type of each required column of the interactions, by name."""
        needed = {self.uid_field: "token", self.iid_field: "token"}
        if self.benchmark_filename_list is not None:
            needed[Fields.of(self.config).history] = "token_seq"
            chosen, left_out = self._get_load_and_unload_col(FeatureSource.INTERACTION)
            if self.time_field not in set(file.columns() if chosen is None else chosen) - (left_out or set()):
                return needed
        return {**needed, self.time_field: "float"}

    def _download(self) -> None:
        download_if_absent(self.config)


def check_cutoffs(key: str, cutoffs: Sequence[int], dataset: SequentialDataset) -> None:
    """Raise InputError if the largest of the cut-offs of configuration key ``key`` exceeds the number of items."""
    most, items = max(cutoffs), dataset.item_num - 1
    if most > items:
        raise InputError(f"{key} asks for {most} items, but {dataset.dataset_name} has {items}; lower it")
