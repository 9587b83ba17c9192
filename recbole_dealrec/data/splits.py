"""Training, validation and test parts of a dataset."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from recbole_dealrec.config import Config
from recbole_dealrec.data.candidates import Fields
from recbole_dealrec.data.data_summary import DataSummary
from recbole_dealrec.data.dataset import SequentialDataset
from recbole_dealrec.data.validation_half import validation_halves
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.console import CONSOLE
from recbole_dealrec.store.names import DATA

_ROWS_HASHED = 1 << 16  # at once


@dataclass(frozen=True)
class Splits:
    """Training, validation and test parts of a dataset.

    Attributes:
        train: training part.
        valid: validation part.
        test: test part.
        halves: with ``selection_part``, what the selection sees of the validation part, and the rest; None without it.
    """

    train: SequentialDataset
    valid: SequentialDataset
    test: SequentialDataset
    halves: tuple[SequentialDataset, SequentialDataset] | None = None

    @property
    def for_selection(self) -> "Splits":
        """Return the parts for surrogates and scorers, with the half that the selection sees."""
        return Splits(self.train, self.halves[0], self.test) if self.halves else self

    @property
    def for_tuning(self) -> "Splits":
        """Return the parts for early stopping of fine-tuning and the choice of keys, with the other half."""
        return Splits(self.train, self.halves[1], self.test) if self.halves else self

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256 of samples, their order in time, item tokens and titles."""
        hashed = hashlib.sha256()
        for part in (self.train, self.valid, self.test):
            fields, rows = Fields.of(part.config), part.inter_feat
            hashed.update(rows[fields.user].numpy())
            hashed.update(rows[fields.item].numpy())
            if part.time_field in rows:
                hashed.update(rows[part.time_field].numpy())
            for start in range(0, len(rows), _ROWS_HASHED):
                hashed.update(rows[start : start + _ROWS_HASHED][fields.history].numpy())
        tokens = self.train.field2id_token[self.train.iid_field]
        hashed.update("\n".join([*map(str, tokens), *self.train.titles]).encode())
        return hashed.hexdigest()

    @property
    def contents(self) -> dict[str, str]:
        """Return the fingerprints of samples and titles, and of the items' texts in prompts."""
        texts = hashlib.sha256("\n".join(self.train.item_texts).encode())
        return {DATA: self.fingerprint, "prompt_item": texts.hexdigest()}

    @property
    def summary(self) -> DataSummary:
        """Return what the dataset holds and what was left out."""
        return DataSummary.of(self.train, self.valid, self.test)


def load_splits(config: Config) -> Splits:
    """Load interactions and titles and split them by ``eval_args`` or ``benchmark_filename``.

    Raises:
        InputError: a file, column or title is missing, the ranking is not over the full catalogue, a part is empty, or
            the validation part cannot be halved as ``selection_part`` says.
    """
    if set(config["eval_args"]["mode"].values()) != {"full"}:
        raise InputError("configuration key 'eval_args': mode has to be full; the ranking is over the full catalogue")
    if config["eval_args"]["order"] != "TO":
        raise InputError("configuration key 'eval_args': order has to be TO; histories are in time order")
    if config["TIME_FIELD"] in (config["numerical_features"] or []):
        raise InputError("configuration key 'numerical_features': time only orders the rows; leave it out")
    try:
        dataset = SequentialDataset(config)
        parts = dataset.build()
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"{config['data_path']}: cannot be read: {error}") from error
    if len(parts) != 3:
        raise InputError(f"{config['dataset']}: training, validation and test are needed, found {len(parts)} parts")
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if len(part) == 0:
            raise InputError(f"{config['dataset']}: the {name} split is empty; check eval_args and the .inter files")
    splits = Splits(*parts, validation_halves(config, parts[1]))
    CONSOLE.info(splits.summary)
    return splits
