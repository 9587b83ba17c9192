"""LoRA on a language model: the matrices that are trained, saved and loaded."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from recbole_dealrec.config import Config
from recbole_dealrec.distributed import fsdp
from recbole_dealrec.errors import InputError

BASE = "base"  # folder of the tiny LLM in the adapter's folder
_ADAPTER_FILE, _CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"


def add_lora(config: Config, base: PreTrainedModel, targets: Sequence[str] | None = None) -> PeftModel:
    """Add untrained LoRA matrices, the only trainable parameters, to a model.

    Args:
        config: reads ``lora_r``, ``lora_alpha`` and ``lora_dropout``.
        base: model, on any device.
        targets: names of the modules; None for ``lora_target_modules``.

    Raises:
        InputError: the model has no module with one of the names, or PEFT cannot adapt it.
    """
    targets = config["lora_target_modules"] if targets is None else targets
    absent = missing_targets(base, targets)
    if absent:
        usual = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(base.config.model_type)
        hint = f"; usual for {base.config.model_type} is {list(usual)}" if usual else ""
        raise InputError(f"lora_target_modules: {type(base).__name__} has no module '{absent[0]}'{hint}")
    lora = LoraConfig(
        r=config["lora_r"],
        lora_alpha=config["lora_alpha"],
        lora_dropout=config["lora_dropout"],
        target_modules=list(targets),
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT calls a deprecated function of transformers
            return get_peft_model(base, lora)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"lora_target_modules {list(targets)}: PEFT cannot adapt them: {reason}") from error


def missing_targets(base: nn.Module, targets: Sequence[str]) -> list[str]:
    """Return the names that no module has; as in PEFT, a name is the end of a module's path, without wildcards."""
    names = [name for name, _ in base.named_modules()]
    return [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in names)]


def save_adapter(network: PeftModel, folder: Path, base: str) -> None:
    """Save the LoRA matrices and configuration in the format of PEFT; all processes must call it.

    Args:
        network: the model with LoRA.
        folder: folder to write to.
        base: Hugging Face id or folder of the model without LoRA; a relative path starts at ``folder``.
    """
    network.peft_config["default"].base_model_name_or_path = base
    trained = ((name, value) for name, value in network.named_parameters() if value.requires_grad)
    weights = {name: fsdp.full_tensor(value.detach()) for name, value in trained}
    network.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)
    (folder / "README.md").unlink()  # PEFT's empty model card, to be filled in by hand


def load_adapter(network: PeftModel, folder: Path, device: str) -> None:
    """Load the LoRA matrices from a folder that ``save_adapter`` wrote.

    Raises:
        InputError: they belong to another model.
    """
    weights = load_file(folder / _ADAPTER_FILE, device=device)
    current = get_peft_model_state_dict(network, save_embedding_layers=False)
    if _shapes(weights) != _shapes(current):
        raise InputError(f"{folder}: adapter of another model or with another lora_r; delete the run folder")
    weights = {name: fsdp.shard_like(value, weights[name]) for name, value in current.items()}
    set_peft_model_state_dict(network, weights)


def base_of_adapter(folder: Path) -> str:
    """Return the Hugging Face id or the folder of the model that an adapter belongs to.

    Raises:
        InputError: the folder is neither at its old place nor next to the run folder.
    """
    named = json.loads((folder / _CONFIG_FILE).read_text(encoding="utf-8"))["base_model_name_or_path"]
    if (folder / named).is_dir():
        return str(folder / named)
    if not Path(named).is_absolute():
        return named
    beside = folder.parents[1] / Path(named).name
    if not beside.is_dir():
        raise InputError(f"{named}: no such folder; {folder} was fine-tuned from the model in it; put it at {beside}")
    return str(beside)


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}
