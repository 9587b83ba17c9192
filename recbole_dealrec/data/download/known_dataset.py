"""Datasets that are known by name: those of RecBole's table, and the paper's."""

from dataclasses import dataclass
from pathlib import Path

from recbole_dealrec.config.properties import recbole_properties
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.errors import InputError

IN_RECBOLE = "ml-100k"


@dataclass(frozen=True)
class PaperDataset:
    """The paper's filter of a processed archive."""

    archive: str
    min_rating: float = 4
    core: int = 5


PAPER_DATASETS = {"games": PaperDataset("amazon-video-games-18"), "book": PaperDataset("amazon-books-18")}


def url_table() -> Path:
    """Return RecBole's table of addresses."""
    return recbole_properties() / "dataset" / "url.yaml"


def archive_url(name: str) -> str | None:
    """Return the address of a dataset's archive, None if the name is unknown."""
    return read_yaml(url_table()).get(PAPER_DATASETS[name].archive if name in PAPER_DATASETS else name)


def check_dataset(folder: Path, split: bool) -> None:
    """Raise InputError if a dataset's folder is absent, and no archive is known by its name.

    Args:
        folder: the folder, named as the dataset.
        split: whether it has to have RecBole's benchmark files.
    """
    if not folder.exists() and archive_url(folder.name) is None:
        raise InputError(
            f"{folder}: no such dataset folder; put {folder.name}.inter and .item there, or convert other files: "
            f"recbole-dealrec convert SOURCE {folder}{' --split' if split else ''}"
        )
