"""Datasets that are downloaded by name: those of RecBole's table and the paper's."""

import shutil
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

import recbole
from filelock import FileLock

from recbole_dealrec.config import Config
from recbole_dealrec.config.yaml_file import read_yaml
from recbole_dealrec.data.convert import convert
from recbole_dealrec.data.convert.writing import new_folder
from recbole_dealrec.data.download.archive import unpack
from recbole_dealrec.data.download.transfer import download
from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError

URL_TABLE = Path(recbole.__file__).parent / "properties" / "dataset" / "url.yaml"
_CONVERT = "python -m recbole_dealrec.data.convert SOURCE"


@dataclass(frozen=True)
class _PaperDataset:
    """The paper's filter of a processed archive."""

    archive: str
    min_rating: float = 4
    core: int = 5


_PAPER_DATASETS = {"games": _PaperDataset("amazon-video-games-18"), "book": _PaperDataset("amazon-books-18")}


def archive_url(name: str) -> str | None:
    """Return the address of a dataset's archive, None if the name is unknown."""
    return read_yaml(URL_TABLE).get(_PAPER_DATASETS[name].archive if name in _PAPER_DATASETS else name)


def download_if_absent(config: Config) -> None:
    """Download the dataset's folder if it is absent.

    Of several processes, one downloads and the others wait. ``games`` and ``book`` are filtered and split as in the
    paper; the other datasets of RecBole's table are only unpacked. An interrupted download is resumed.

    Args:
        config: reads ``dataset``, ``data_path`` and ``show_progress``.

    Raises:
        InputError: the name is unknown, or its archive cannot be downloaded or unpacked.
    """
    name, folder = config["dataset"], Path(config["data_path"])
    url = archive_url(name)
    if url is None:
        raise InputError(
            f"{folder}: no such dataset folder; put {name}.inter and .item there, or convert other files: {_CONVERT} "
            f"{folder}{' --split' if config['benchmark_filename'] else ''}"
        )
    kept = folder.with_name(f".{name}.download")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{name}.lock")):
            if not folder.exists():  # another process may have been faster
                kept.mkdir(exist_ok=True)
                # The other processes have show_progress off, but any process may get here first.
                archive = download(url, kept, config["show_progress"] or processes.launched_rank() > 0)
                _write_dataset(archive, folder, _PAPER_DATASETS.get(name))
                shutil.rmtree(kept, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{kept}: {error.strerror or error}; the same command goes on from here") from error


def _write_dataset(archive: Path, folder: Path, paper: _PaperDataset | None) -> None:
    """Write the dataset's folder from its archive."""
    if paper is None:
        with new_folder(folder) as new:
            unpack(archive, {suffix: new / f"{folder.name}{suffix}" for suffix in (".inter", ".item")})
        return
    unpacked = archive.with_suffix("")
    unpacked.mkdir(exist_ok=True)
    unpack(archive, {suffix: unpacked / f"{folder.name}{suffix}" for suffix in (".inter", ".item")})
    getLogger().info(f"Filtering and splitting {folder.name}")
    getLogger().info(convert(unpacked, folder, paper.min_rating, paper.core, split=True))
