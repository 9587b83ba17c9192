"""Checks of Hugging Face checkpoints, and the error for one that cannot be loaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.quantizers import AutoHfQuantizer
from transformers.utils import logging

from recbole_dealrec.config import Config
from recbole_dealrec.config.given import names_checkpoint
from recbole_dealrec.config.kind import CHECKPOINT
from recbole_dealrec.config.registry import key_of
from recbole_dealrec.errors import InputError
from recbole_dealrec.store.files import checksum

# from_pretrained raises errors of many types for a broken checkpoint; tokenizers raise a plain Exception.
LOAD_ERRORS = Exception


def is_on_disk(path: str) -> bool:
    """Return whether a path is a file, a folder, a downloaded Hugging Face id, or no valid id at all."""
    if Path(path).is_file():
        return True
    try:
        folder = Path(path if Path(path).is_dir() else snapshot_download(path, local_files_only=True))
    except LocalEntryNotFoundError:
        return False
    except HFValidationError:
        return True
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")) or Path(path).is_dir()


def load_error(key: str, path: str, error: Exception) -> InputError:
    """Return a one-line InputError for configuration key ``key``, whose checkpoint failed to load."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(path).exists():
        kind = "folder" if Path(path).is_dir() else "file"
    else:
        kind = "neither a folder nor a model that can be reached"
        if not names_checkpoint(path):
            return InputError(f"{key} '{path}': no such file or folder")
    return InputError(f"{key} '{path}': {kind}; cannot be loaded: {reason}")


def model_without_weights(key: str, path: str, from_pretrained: Callable, **options: Any) -> PreTrainedModel:
    """Return the model at ``path`` on the meta device, checked against its files without reading the weights.

    Args:
        key: configuration key of the path.
        path: folder or Hugging Face id.
        from_pretrained: method of an auto class of transformers.
        options: its keyword arguments.

    Raises:
        InputError: the model cannot be loaded, is an adapter, or weights are missing or have another shape.
    """
    if (Path(path) / "adapter_config.json").is_file():
        raise InputError(f"{key} '{path}': is a PEFT adapter, not a model; use what its merge_and_unload() returns")
    try:
        with quiet_transformers():
            plain = _plain_config(path, options.get("trust_remote_code", False))
            model, found = from_pretrained(
                path, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True, **plain, **options
            )
    except LOAD_ERRORS as error:
        raise load_error(key, path, error) from error
    wrong = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    wrong = {name for name in wrong if "pooler" not in name}  # unused here, and absent from many encoders
    if plain:  # a quantised module stores other tensors under its name
        modules = {name: f"{name.rpartition('.')[0]}." for name in wrong}
        unexpected = tuple(found["unexpected_keys"])
        wrong = {name for name, module in modules.items() if not any(key.startswith(module) for key in unexpected)}
    if wrong:
        raise InputError(
            f"{key} '{path}': its weights do not match the {type(model).__name__} that config.json describes; "
            f"{len(wrong)} are missing or have another shape, such as {min(wrong)}"
        )
    return model


def _plain_config(path: str, trust_remote_code: bool) -> dict[str, PretrainedConfig]:
    """Return the configuration of a quantised checkpoint without quantisation, as an argument; {} for others.

    Quantised modules cannot be created on the meta device. Raises ImportError if a package that they need is missing.
    """
    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    if getattr(config, "quantization_config", None) is None:
        return {}
    AutoHfQuantizer.from_config(config.quantization_config, pre_quantized=True).validate_environment()
    del config.quantization_config
    return {"config": config}


def checkpoint_contents(config: Config) -> dict[str, str]:
    """Return ``checkpoint_content`` by configuration key, for each key that names a checkpoint."""
    paths = {name: path for name, path in config.resolved().items() if key_of(name).kind is CHECKPOINT}
    return {name: checkpoint_content(path) for name, path in paths.items()}


def checkpoint_content(path: str) -> str:
    """Return an identifier of a checkpoint's content.

    Args:
        path: file, folder, Hugging Face id, or another name.

    Returns:
        SHA-256 of a file or of all files of a folder; the commit of a downloaded model; else the name itself.
    """
    if Path(path).exists():
        files = sorted(file for file in [Path(path), *Path(path).rglob("*")] if file.is_file())
        return _file_content(path, tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))
    downloaded = try_to_load_from_cache(path, "config.json") if "/" in path else None
    return f"{path}@{Path(downloaded).parent.name}" if isinstance(downloaded, str) else path


@cache
def _file_content(path: str, state: tuple) -> str:
    """Return the checksum of a file or folder, cached while ``state`` (names, sizes, times) stays the same."""
    return checksum(Path(path))


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the weight report and the progress bar of transformers."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
