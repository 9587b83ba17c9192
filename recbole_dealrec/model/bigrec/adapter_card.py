"""Content of the model card of a LoRA adapter."""

from pathlib import Path
from typing import Any

from recbole_dealrec.config import Config
from recbole_dealrec.data import PromptTemplate
from recbole_dealrec.model.bigrec.lora import BASE
from recbole_dealrec.model.checkpoint import checkpoint_content

_TITLES = ("Title of an earlier item", "Title of the latest item")
_CODE = """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

folder = "."  # this folder
model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype="{dtype}")
tokenizer = AutoTokenizer.from_pretrained(folder)
"""
# AutoPeftModelForCausalLM would look for the base model in the current folder.
_TINY_CODE = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
base = AutoModelForCausalLM.from_pretrained(f"{{folder}}/base", dtype="{dtype}")
model = PeftModel.from_pretrained(base, folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
"""


def adapter_card(config: Config, folder: Path) -> dict[str, Any]:
    """Return the content of the model card of an adapter, see ``LLMRecommender.card``."""
    is_tiny = config["llm_path"] == "tiny"
    base = str(folder / BASE) if is_tiny else config["llm_path"]
    content, is_file = checkpoint_content(base), Path(base).exists()
    named = "the tiny LLM in `base`, built from the titles" if is_tiny else f"`{Path(base).name if is_file else base}`"
    quantized = f", quantised to {config['llm_quantization']}" if config["llm_quantization"] else ""
    known = f"SHA-256 `{content}`" if is_file else f"`{content}`"
    metadata = {"library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lora"]}
    return {
        "metadata": metadata if is_file else {**metadata, "base_model": base},
        "origin": (
            f"A LoRA adapter of {named}{quantized} ({known}). It reads the latest {config['max_history_titles']} "
            "titles of a history and generates the next title."
        ),
        "prompt": _prompt(config),
        "code": (_TINY_CODE if is_tiny else _CODE).format(dtype=config["llm_dtype"]),
    }


def _prompt(config: Config) -> str:
    """Return an example prompt with two titles and its response; with a chat template, the messages."""
    prompt, answer = PromptTemplate(config).render(_TITLES), PromptTemplate.response("Title of the next item")
    if not config["chat_template"]:
        return f"{prompt.text}{answer}"
    told = f"system: {prompt.instruction}\nuser: {prompt.input}\nassistant: {answer}"
    return f"(formatted by the tokenizer's chat template)\n{told}"
