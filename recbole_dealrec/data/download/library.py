"""Datasets that are downloaded by name: those of RecBole's table and the paper's."""

import shutil
from pathlib import Path

from filelock import FileLock

from recbole_dealrec.config import Config
from recbole_dealrec.data.convert import convert
from recbole_dealrec.data.convert.writing import new_folder
from recbole_dealrec.data.download.archive import unpack
from recbole_dealrec.data.download.known_dataset import PAPER_DATASETS, PaperDataset, archive_url, check_dataset
from recbole_dealrec.data.download.transfer import download
from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.console import CONSOLE


def download_if_absent(config: Config) -> None:
    """Download the dataset's folder if it is absent.

    With several processes, one downloads and the others wait. ``games`` and ``book`` are filtered and split as in the
    paper; the other datasets of RecBole's table are only unpacked. An interrupted download is resumed.

    Args:
        config: reads ``dataset``, ``data_path`` and ``show_progress``.

    Raises:
        InputError: the name is unknown, or its archive cannot be downloaded or unpacked.
    """
    name, folder = config["dataset"], Path(config["data_path"])
    check_dataset(folder, bool(config["benchmark_filename"]))
    kept = folder.with_name(f".{name}.download")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{name}.lock")):
            if not folder.exists():  # another process may have been faster
                kept.mkdir(exist_ok=True)
                # The other processes have show_progress off, but any process may get here first.
                archive = download(archive_url(name), kept, config["show_progress"] or processes.launched_rank() > 0)
                _write_dataset(archive, folder, PAPER_DATASETS.get(name))
                shutil.rmtree(kept, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{kept}: {error.strerror or error}; run the same command again to resume") from error


def _write_dataset(archive: Path, folder: Path, paper: PaperDataset | None) -> None:
    """Write the dataset's folder from its archive."""
    if paper is None:
        with new_folder(folder) as new:
            unpack(archive, {suffix: new / f"{folder.name}{suffix}" for suffix in (".inter", ".item")})
        return
    unpacked = archive.with_suffix("")
    unpacked.mkdir(exist_ok=True)
    unpack(archive, {suffix: unpacked / f"{folder.name}{suffix}" for suffix in (".inter", ".item")})
    CONSOLE.info(f"filtering and splitting {folder.name}")
    CONSOLE.info(convert(unpacked, folder, paper.min_rating, paper.core, split=True))
