"""Few-shot samples chosen from interactions in a DataFrame."""

import json
import tempfile
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, load_splits
from recbole_dealrec.digest import run_name
from recbole_dealrec.errors import InputError
from recbole_dealrec.pipeline import Pipeline
from recbole_dealrec.run_folder import RunFolder
from recbole_dealrec.stages import SharedStages

_NAME = "frame"  # of the dataset
_DATA_KEYS = {"data_path", "load_col", "benchmark_filename"}


def select_fewshot(
    interactions: pd.DataFrame, items: pd.DataFrame, llm_path: str = "tiny", **keys: Any
) -> pd.DataFrame:
    """Choose few-shot samples for a language model from a user's own data; nothing is fine-tuned.

    The samples come from the training split: with the default ``eval_args``, the last two items of each user are held
    out. What was computed on the way is kept only if a ``checkpoint_dir`` is given.

    Args:
        interactions: columns ``user_id``, ``item_id`` and ``timestamp``, of any types; times are numbers or datetimes,
            and equal ones keep the order of the rows. The keys ``USER_ID_FIELD``, ``ITEM_ID_FIELD`` and ``TIME_FIELD``
            give other names.
        items: columns ``item_id`` and ``title``; the key ``title_field`` gives another name.
        llm_path: Hugging Face id or folder of a causal language model; ``tiny`` is the embedded one.
        keys: configuration keys, such as ``sampler``, ``n_fewshot`` and ``prompt_noun``.

    Returns:
        A row for each selected sample: ``user``, ``history`` (list of items, oldest first) and ``target`` as the
        interactions have them, ``history_titles``, ``target_title``, the columns that the sampler writes to
        ``scores.csv`` (DEALRec: ``influence``, ``effort``, ``score``, ``group``), and ``instruction``, ``input`` and
        ``output`` for fine-tuning; with ``chat_template``, ``messages`` too.

    Raises:
        InputError: a column or a value is missing, an item has two titles, or a key cannot be used.
    """
    if given := sorted(keys.keys() & _DATA_KEYS):
        raise InputError(f"configuration key '{given[0]}': the data are those of the DataFrames; leave it out")
    config = Config("BIGRec", _NAME, config_dict={**keys, "llm_path": llm_path})
    user, item, time = (config[f"{name}_FIELD"] for name in ("USER_ID", "ITEM_ID", "TIME"))
    _check_columns("interactions", interactions, (user, item, time))
    _check_columns("items", items, (item, config["title_field"]))
    user_codes, users = interactions[user].factorize()
    item_codes, catalogue = interactions[item].factorize()
    titles = _titles(items.set_index(item)[config["title_field"]], catalogue)
    rows = pd.DataFrame({user: user_codes, item: item_codes, time: _numbers(interactions[time])})
    with tempfile.TemporaryDirectory() as folder:
        _write_atomic(Path(folder) / _NAME, rows, titles, config)
        own = {"llm_path": llm_path, "data_path": folder, "load_col": {"inter": [user, item, time]}}
        selected = _select(Config("BIGRec", _NAME, config_dict={"checkpoint_dir": f"{folder}/saved", **keys, **own}))
    selected["user"] = users[selected["user"]]
    selected["history"] = [catalogue[history].tolist() for history in selected["history"]]
    selected["target"] = catalogue[selected["target"]]
    return selected


def _select(config: Config) -> pd.DataFrame:
    """What ``select_fewshot`` returns, users and items by their numbers in the atomic files."""
    config.model_class.check(config)
    splits = load_splits(config)
    candidates = CandidateSamples.from_dataset(splits.train, config["samples_per_user"])
    with RunFolder.opened(Path(config["checkpoint_dir"]) / run_name(config, splits)) as folder:
        pipeline = Pipeline(config, SharedStages(config, splits, candidates, folder), folder)
        selected = pipeline.run(last="select")["selected"]
        scores = pd.read_csv(folder / "scores.csv").drop(columns=["user", "target", "selected"])
        with open(folder / "fewshot.jsonl", encoding="utf-8") as stream:
            prompts = pd.DataFrame(map(json.loads, stream))
    samples, dataset = candidates[selected], splits.train
    user_numbers, item_numbers = (
        np.array([-1, *map(int, dataset.field2id_token[field][1:])]) for field in (dataset.uid_field, dataset.iid_field)
    )
    histories = [samples.history(row) for row in range(len(samples))]
    columns = {
        "user": user_numbers[samples.user_id],
        "history": [item_numbers[history] for history in histories],
        "target": item_numbers[samples.item_id],
        "history_titles": [[samples.title(item) for item in history] for history in histories],
        "target_title": [samples.title(item) for item in samples.item_id],
    }
    return pd.concat([pd.DataFrame(columns), scores.iloc[selected].reset_index(drop=True), prompts], axis=1)


def _check_columns(name: str, frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    for column in columns:
        if column not in frame:
            found = ", ".join(map(str, frame.columns)) or "none"
            raise InputError(f"{name}: no column '{column}' (found {found}); rename yours, or name it by its key")
    if frame.empty:
        raise InputError(f"{name}: holds no row")
    ids = frame[list(columns)] if name == "interactions" else frame[[columns[0]]]
    for column, missing in ids.isna().items():
        if missing.any():
            raise InputError(f"{name}, row {int(np.argmax(missing))} from 0: {column} is missing; drop the row")


def _numbers(times: pd.Series) -> np.ndarray:
    """Times as float64, datetimes as seconds since 1970."""
    if pd.api.types.is_datetime64_any_dtype(times):
        times = (times - pd.Timestamp(0, tz=times.dt.tz)) / pd.Timedelta(seconds=1)
    try:
        numbers = times.to_numpy(dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"interactions: {times.name} holds what is neither number nor datetime ({error})") from error
    if not np.isfinite(numbers).all():
        raise InputError(f"interactions, row {int(np.argmin(np.isfinite(numbers)))} from 0: {times.name} is not finite")
    return numbers


def _titles(given: pd.Series, catalogue: pd.Index) -> list[str]:
    """Title of each item of the catalogue in one line; an item without one is called by its id."""
    titles = given.dropna().map(_one_line)
    titles = titles[titles != ""].groupby(level=0).unique()
    several = titles[titles.map(len) > 1]
    if len(several):
        raise InputError(f"items: item '{several.index[0]}' has {len(several.iloc[0])} titles; keep one of them")
    titles = titles.map(lambda found: found[0]).reindex(catalogue)
    untitled = catalogue[titles.isna()]
    if len(untitled) == len(catalogue):
        raise InputError(
            f"items: none of the {len(catalogue)} items of the interactions has a title; see that ids are of one type"
        )
    if len(untitled):
        getLogger().warning(
            f"items: {len(untitled)} items have no title and are called by their id, the first is {untitled[0]}"
        )
    return [_one_line(item if pd.isna(title) else title) for item, title in titles.items()]


def _one_line(value: Any) -> str:
    """A value as text that a row of an atomic file can hold."""
    text = str(value).replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
    return " ".join(text.split())


def _write_atomic(folder: Path, rows: pd.DataFrame, titles: list[str], config: Config) -> None:
    """Atomic files in which a user or item is called by its number, whatever the DataFrames call it."""
    folder.mkdir()
    kinds = ("token", "token", "float")
    header = [f"{name}:{kind}" for name, kind in zip(rows, kinds, strict=True)]
    rows.to_csv(folder / f"{_NAME}.inter", sep=config["field_separator"], index=False, header=header)
    with open(folder / f"{_NAME}.item", "w", encoding="utf-8") as stream:
        separator = config["field_separator"]
        stream.write(f"{config['ITEM_ID_FIELD']}:token{separator}{config['title_field']}:token_seq\n")
        stream.writelines(f"{code}{separator}{title}\n" for code, title in enumerate(titles))
