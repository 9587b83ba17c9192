"""Language models in GGUF files: quantised weights are unpacked once, into a folder that PEFT can load, too."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import is_gguf_available

from recbole_dealrec.distributed import processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.checkpoint import UNUSABLE, quiet, unusable
from recbole_dealrec.store.files import atomic_path, checksum


def is_gguf(path: str) -> bool:
    """Whether a path names a GGUF file."""
    return path.endswith(".gguf")


def gguf_arguments(path: str) -> dict[str, str]:
    """What ``from_pretrained`` of transformers takes to read a GGUF file.

    Raises:
        InputError: there is no such file, or the package that reads it is absent.
    """
    if not Path(path).is_file():
        raise InputError(f"llm_path '{path}': no such file")
    if not is_gguf_available():
        raise InputError(f"llm_path '{path}' needs the package gguf: pip install gguf")
    return {"pretrained_model_name_or_path": str(Path(path).parent), "gguf_file": Path(path).name}


def gguf_model_without_weights(path: str) -> PreTrainedModel:
    """The model of a GGUF file on the meta device; of the file, the description alone is read.

    Raises:
        InputError: transformers cannot read the file, or does not know its architecture.
    """
    arguments = gguf_arguments(path)
    try:
        with quiet(), torch.device("meta"):
            return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**arguments))
    except UNUSABLE as error:
        raise unusable("llm_path", path, error) from error


def gguf_folder(path: str, parent: Path) -> Path:
    """Folder with the model of a GGUF file as transformers saves it, float32; made at the first use.

    Args:
        path: GGUF file.
        parent: where the folder lies; it is named after the content of the file.

    Raises:
        InputError: the file cannot be read, or lacks weights of its model.
    """
    folder = parent / f"{Path(path).stem}-{checksum(Path(path))[:12]}"
    processes.on_main(lambda: folder.is_dir() or _unpack(path, folder))
    return folder


def _unpack(path: str, folder: Path) -> None:
    arguments = gguf_arguments(path)
    try:
        with quiet():
            model, found = AutoModelForCausalLM.from_pretrained(
                **arguments, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(**arguments)
    except UNUSABLE as error:
        raise unusable("llm_path", path, error) from error
    if missing := sorted(found["missing_keys"]):
        raise InputError(f"llm_path '{path}' lacks {len(missing)} weights of its model, the first is {missing[0]}")
    _forget_quantization(model)
    with atomic_path(folder) as unfinished, quiet():
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)


def _forget_quantization(model: Any) -> None:
    """The weights are plain numbers by now, but transformers would refuse to save them as such."""
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
