"""Language models in GGUF files, whose quantised weights are unpacked once into a folder that PEFT can load."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import is_gguf_available

from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.checkpoint import LOAD_ERRORS, load_error, quiet_transformers
from recbole_dealrec.store.files import atomic_path, checksum


def is_gguf(path: str) -> bool:
    """Return whether a path names a GGUF file."""
    return path.endswith(".gguf")


def gguf_arguments(path: str) -> dict[str, str]:
    """Return the arguments with which ``from_pretrained`` of transformers reads a GGUF file.

    Raises:
        InputError: the file or the package gguf is absent.
    """
    if not Path(path).is_file():
        raise InputError(f"llm_path '{path}': no such file")
    if not is_gguf_available():
        raise InputError(f"llm_path '{path}' needs the package gguf: pip install gguf")
    return {"pretrained_model_name_or_path": str(Path(path).parent), "gguf_file": Path(path).name}


def gguf_model_without_weights(path: str) -> PreTrainedModel:
    """Return the model of a GGUF file on the meta device, without reading its weights.

    Raises:
        InputError: transformers cannot read the file, or does not know its architecture.
    """
    arguments = gguf_arguments(path)
    try:
        with quiet_transformers(), torch.device("meta"):
            return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**arguments))
    except LOAD_ERRORS as error:
        raise load_error("llm_path", path, error) from error


def gguf_folder(path: str, parent: Path) -> Path:
    """Return the folder of a GGUF file's model in the format of transformers, float32; write it at the first use.

    Args:
        path: GGUF file.
        parent: parent of the folder, whose name contains the file's checksum.

    Raises:
        InputError: the file cannot be read, or lacks weights of its model.
    """
    folder = parent / f"{Path(path).stem}-{checksum(Path(path))[:12]}"
    processes.on_main(lambda: folder.is_dir() or _unpack(path, folder))
    return folder


def _unpack(path: str, folder: Path) -> None:
    arguments = gguf_arguments(path)
    try:
        with quiet_transformers():
            model, found = AutoModelForCausalLM.from_pretrained(
                **arguments, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(**arguments)
    except LOAD_ERRORS as error:
        raise load_error("llm_path", path, error) from error
    if missing := sorted(found["missing_keys"]):
        raise InputError(f"llm_path '{path}': use another; this one lacks {len(missing)} weights, such as {missing[0]}")
    _forget_quantization(model)
    with atomic_path(folder) as unfinished, quiet_transformers():
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)


def _forget_quantization(model: Any) -> None:
    """Remove the quantisation settings; with them transformers does not save the unpacked weights."""
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
