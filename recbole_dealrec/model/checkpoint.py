"""Checkpoints of Hugging Face, looked at before hours of work, and the answer to one that cannot be loaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from transformers import PreTrainedModel
from transformers.utils import logging

from recbole_dealrec.config import Config
from recbole_dealrec.config.kind import CHECKPOINT
from recbole_dealrec.config.registry import key_of
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.files import checksum

# from_pretrained raises whatever a broken file makes it run into, tokenizers a plain Exception.
UNUSABLE = Exception


def is_on_disk(path: str) -> bool:
    """Whether a file, a folder or a Hugging Face id whose weights were downloaded; True, too, for what can be no id."""
    if Path(path).is_file():
        return True
    try:
        folder = Path(path if Path(path).is_dir() else snapshot_download(path, local_files_only=True))
    except LocalEntryNotFoundError:
        return False
    except HFValidationError:
        return True
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")) or Path(path).is_dir()


def unusable(key: str, path: str, error: Exception) -> InputError:
    """The error, in one line, for configuration key ``key`` whose checkpoint failed to load."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = "neither a folder nor a model that can be reached"
    if Path(path).exists():
        kind = "folder" if Path(path).is_dir() else "file"
    return InputError(f"{key} '{path}': {kind}; cannot be loaded: {reason}")


def model_without_weights(key: str, path: str, from_pretrained: Callable, **options: Any) -> PreTrainedModel:
    """The model at ``path`` on the meta device: its files are opened and compared with it, its weights are not read.

    Args:
        key: configuration key that has the path.
        path: folder or Hugging Face id.
        from_pretrained: of an auto class of transformers.
        options: what it takes beside the path.

    Raises:
        InputError: it cannot be loaded, is an adapter, or its files lack weights or hold them in another shape.
    """
    if (Path(path) / "adapter_config.json").is_file():
        raise InputError(f"{key} '{path}': holds a PEFT adapter, not a model; name what its merge_and_unload() gives")
    try:
        with quiet():
            model, found = from_pretrained(
                path, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except UNUSABLE as error:
        raise unusable(key, path, error) from error
    wrong = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    wrong = sorted(name for name in wrong if "pooler" not in name)  # not read here, and many encoders come without one
    if wrong:
        raise InputError(
            f"{key} '{path}': its weights are not those of the {type(model).__name__} that config.json describes; "
            f"{len(wrong)} are absent or of another shape, the first is {wrong[0]}"
        )
    return model


def checkpoint_contents(config: Config) -> dict[str, str]:
    """Return the ``checkpoint_content`` of each key of a configuration that names a checkpoint."""
    paths = {name: path for name, path in config.resolved().items() if key_of(name).kind is CHECKPOINT}
    return {name: checkpoint_content(path) for name, path in paths.items()}


def checkpoint_content(path: str) -> str:
    """Return what tells a checkpoint from any other.

    Args:
        path: file, folder, Hugging Face id, or a name that is none of these.

    Returns:
        SHA-256 of a file or of all files of a folder, the commit of what was downloaded, or the name itself.
    """
    if Path(path).exists():
        files = sorted(file for file in [Path(path), *Path(path).rglob("*")] if file.is_file())
        return _content(path, tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))
    downloaded = try_to_load_from_cache(path, "config.json") if "/" in path else None
    return f"{path}@{Path(downloaded).parent.name}" if isinstance(downloaded, str) else path


@cache
def _content(path: str, state: tuple) -> str:
    """Return the checksum of a folder; ``state`` changes when a file does."""
    return checksum(Path(path))


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers without its report of the weights and its progress bar."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
