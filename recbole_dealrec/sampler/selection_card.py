"""The card of a selection, ``selection.json``, and the sampler that uses the samples of another run's card."""

from collections.abc import Mapping
from importlib.metadata import version
from logging import getLogger
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np

from recbole_dealrec.config import STEPS, Config
from recbole_dealrec.config.registry import key_of
from recbole_dealrec.data import CandidateSamples, Splits
from recbole_dealrec.data.validation_half import seen_text
from recbole_dealrec.errors import InputError
from recbole_dealrec.sampler.few_shot import FewShotSampler, get_sampler
from recbole_dealrec.scorer.scorer import LLM
from recbole_dealrec.scorer.scoring import scoring_steps
from recbole_dealrec.store.files import read_json
from recbole_dealrec.store.step import Record

CARD = "selection.json"
Card = dict[str, Any]
_SHARED = ("sampler", "n_fewshot", "samples_per_user", "selection_part")  # keys that a run shares with its card
_NAMED = ("dataset", "model", "sampler")
_TYPES = {
    "data": str, **dict.fromkeys(_NAMED, str), "indices": list, "users": list, "targets": list, "keys": dict,
    "versions": dict, "steps": dict, "sees": list,
}  # fmt: skip
_PACKAGES = ("recbole", "torch", "transformers", "peft", "numpy")


def selection_card(
    sampler: FewShotSampler,
    splits: Splits,
    samples: CandidateSamples,
    indices: np.ndarray,
    records: Mapping[str, Record],
) -> Card:
    """Return what another run needs to use a selection, and its origin; a card that this run uses is not changed.

    Args:
        sampler: the sampler of the run.
        splits: training, validation and test parts.
        samples: candidate samples.
        indices: int64 [n_fewshot], indices of the selected ones.
        records: seconds and memory of the run's steps.

    Returns:
        ``dataset``, ``model`` and ``sampler``; ``data``, the fingerprint of the data; ``indices``, ``users`` and
        ``targets`` of the selected samples; ``sees``, the parts of the data that the choice depends on, and
        ``validation_seen``, in words, which rows of the validation part; ``keys``, the configuration up to the
        selection; ``versions`` of packages; ``steps``, the records of the steps that the selection needs, without
        loading the language model.
    """
    if isinstance(sampler, GivenSampler):
        return sampler.card
    own = {"recbole_dealrec": resolve_name("recbole_dealrec:__version__")}
    values, before = sampler.config.resolved(), STEPS[: STEPS.index("selection") + 1]
    taken = {*scoring_steps(sampler.config, sampler.needs), "selection"} - {LLM}
    return {
        **{name: values[name] for name in _NAMED},
        "data": splits.fingerprint,
        **_named_samples(splits, samples, indices),
        "sees": list(sampler.sees),
        "validation_seen": seen_text(values["selection_part"], len(splits.for_selection.valid), len(splits.valid)),
        "keys": {name: value for name, value in values.items() if key_of(name).step in before and name not in _NAMED},
        "versions": {**own, **{name: version(name) for name in _PACKAGES}},
        "steps": {name: record for name, record in records.items() if name in taken},
    }


def read_card(path: str) -> Card:
    """Return the card in a file.

    Raises:
        InputError: it cannot be read, or is not what ``selection_card`` returns.
    """
    file = Path(path).expanduser()
    try:
        card = read_json(file)
    except OSError as error:
        raise _error(path, f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise _error(path, "not JSON") from error
    for name, expected in _TYPES.items():
        if not isinstance(card, dict) or not isinstance(card.get(name), expected):
            raise _error(path, f"'{name}' is missing or malformed")
    indices = card["indices"]
    if not indices or not all(type(index) is int and index >= 0 for index in indices):
        raise _error(path, "'indices' contains something other than indices of candidates")
    if indices != sorted(set(indices)) or not len(indices) == len(card["users"]) == len(card["targets"]):
        raise _error(path, "'indices' is not sorted, or not as long as 'users' and 'targets'")
    if absent := {*_shared_names(card)} - {*card["keys"], "sampler", "selection_part"}:
        raise _error(path, f"'keys' has no {min(absent)}")
    if not all(map(_is_record, card["steps"].values())):
        raise _error(path, "'steps' has a step without seconds or memory")
    return card


def shared_keys(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that a run shares with the card that it uses; none without ``selection``.

    Args:
        given: keys that the user has set.

    Raises:
        InputError: the user has set one to another value, or the card cannot be read.
    """
    if not given.get("selection"):
        return {}
    path = str(given["selection"])
    card = read_card(path)
    known = {"selection_part": "none", **card["keys"], **card}
    values = {name: known[name] for name in _shared_names(card)}
    for name, value in values.items():
        if name in given and str(given[name]) != str(value):
            raise InputError(
                f"configuration key '{name}' is {given[name]}, but selection '{path}' was made with {value}; "
                "leave one of them out"
            )
    return values


def _shared_names(card: Card) -> list[str]:
    """Return the keys that a run shares with a card; the seed among them where it draws the validation users."""
    return [*_SHARED, *["seed"] * (card["keys"].get("selection_part") == "user")]


class GivenSampler(FewShotSampler):
    """The samples that another run has selected; the sampler of a run with the key ``selection``.

    Args:
        config: reads ``selection``.

    Attributes:
        card: content of the file.

    Raises:
        InputError: the file cannot be read.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.card = read_card(config["selection"])

    @property
    def origin(self) -> Card:
        """Return the card without the cost, which is only reported and changes no result."""
        return {name: value for name, value in self.card.items() if name != "steps"}

    @property
    def sees(self) -> tuple[str, ...]:
        """Return what the other run's choice depends on."""
        return tuple(self.card["sees"])

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        origin = f"{self.card['sampler']} for {self.card['model']}"
        getLogger().info(f"the samples are those of {self.config['selection']}, selected by {origin}")
        return np.array(self.card["indices"], dtype=np.int64)

    def check(self, samples: CandidateSamples) -> None:
        """Accept any number of candidates: ``check_data`` compares them one by one."""

    def check_data(self, splits: Splits, samples: CandidateSamples) -> None:
        """Raise InputError if the card was made on other data.

        Raises:
            InputError: the fingerprint differs, or the user or target of a sample differs.
        """
        card, path, dataset = self.card, self.config["selection"], self.config["dataset"]
        if card["data"] != splits.fingerprint or card["indices"][-1] >= len(samples):
            raise InputError(
                f"selection '{path}' was made on other data: {card['dataset']} there, {dataset} here, and rows, titles "
                "or split differ; use the same files and data keys"
            )
        found = _named_samples(splits, samples, np.array(card["indices"]))
        for name in ("users", "targets"):
            other = [place for place, token in enumerate(found[name]) if token != card[name][place]]
            if other:
                index, there, here = card["indices"][other[0]], card[name][other[0]], found[name][other[0]]
                raise _error(path, f"'{name}' has {there} for candidate {index}, which has {here} in {dataset}")


def sampler_of(config: Config, splits: Splits, samples: CandidateSamples) -> FewShotSampler:
    """Return the sampler of a run: that of the key ``selection``, or else of ``sampler``.

    Raises:
        InputError: the card in ``selection`` cannot be read, or was made on other data.
    """
    if not config["selection"]:
        return get_sampler(config["sampler"])(config)
    sampler = GivenSampler(config)
    sampler.check_data(splits, samples)
    return sampler


def _named_samples(splits: Splits, samples: CandidateSamples, indices: np.ndarray) -> dict[str, list]:
    train, chosen = splits.train, samples[indices]
    users, targets = train.id2token(train.uid_field, chosen.user_id), train.id2token(train.iid_field, chosen.item_id)
    return {"indices": indices.tolist(), "users": users.tolist(), "targets": targets.tolist()}


def _is_record(record: Any) -> bool:
    if not (isinstance(record, dict) and isinstance(record.get("memory"), dict) and "resident" in record["memory"]):
        return False
    return all(type(value) in (int, float) for value in (record.get("seconds"), *record["memory"].values()))


def _error(path: str, reason: str) -> InputError:
    return InputError(f"selection '{path}': {reason}; use the {CARD} of a run")
