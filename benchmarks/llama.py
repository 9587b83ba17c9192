"""A recommender with Llamas of random weights: their cost does not depend on the values of the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, PromptTemplate, SequentialDataset, load_splits
from recbole_dealrec.model import BIGRec
from recbole_dealrec.model.bigrec.llm import add_lora
from recbole_dealrec.model.bigrec.tiny_llama import create_model, save, train_tokenizer

CUDA = torch.cuda.is_available()
# With so few tokens, a tokenizer trained on the titles needs as many per title as Llama's does with 32,000.
TOKENS = 2000
SAMPLES_OF_BATCH = 54  # Games, on average

Batch = Mapping[str, Tensor]


@dataclass
class Bench:
    """A recommender whose network is exchanged for each size, and its candidate samples."""

    config: Config
    train: SequentialDataset
    candidates: CandidateSamples
    llm: BIGRec

    @classmethod
    def build(cls, data_path: str | None, folder: Path) -> "Bench":
        """Use prompts of Games if its folder is in ``data_path``, else of ml-100k; ``folder`` is for files."""
        dataset = "games" if data_path else "ml-100k"
        keys = {
            "llm_path": str(folder / "llm"), "checkpoint_dir": str(folder), "use_gpu": CUDA, "show_progress": False,
            "epochs": 1, **({"data_path": data_path} if data_path else {}),
        }  # fmt: skip
        config = Config("BIGRec", dataset, config_dict=keys)
        train = load_splits(config).train
        prompt = PromptTemplate(config).render([]).text
        tokenizer = train_tokenizer([*train.titles[1:], *[prompt] * 1000], TOKENS, 1024)
        save(folder / "llm", create_model(tokenizer, hidden_size=8, n_layers=1, n_heads=1, seed=0), tokenizer)
        candidates = CandidateSamples.from_dataset(train, config["samples_per_user"])
        return cls(config, train, candidates, BIGRec(config, train))

    def load(self, size: str) -> PeftModel:
        """Give the recommender a network of this size."""
        self.llm.network = None  # frees memory
        self.llm.network = network(self.config, size)
        return self.llm.network

    def batches(self, count: int) -> list[Batch]:
        """Return full scoring batches of about ``count`` samples, at even distances in the order of their lengths."""
        order = np.argsort(self.llm.encoder.estimated_lengths(self.candidates), kind="stable")
        parts = np.array_split(order, max(1, round(count / SAMPLES_OF_BATCH)))
        blocks = [part[len(part) // 2 :][: 4 * SAMPLES_OF_BATCH] for part in parts]
        return [next(self.llm.batches(self.candidates[block]))[1] for block in blocks]


def network(config: Config, size: str) -> PeftModel:
    """Return a Llama of a size with LoRA, in evaluation mode, in the proportions of the one of 7 billion, 4096x32."""
    hidden, layers = map(int, size.split("x"))
    llama = LlamaConfig(
        vocab_size=max(TOKENS, hidden * 125 // 16), hidden_size=hidden, intermediate_size=hidden * 43 // 16,
        num_hidden_layers=layers, num_attention_heads=hidden // (128 if hidden >= 2048 else 64),
    )  # fmt: skip
    torch.manual_seed(0)
    with config["device"]:
        base = AutoModelForCausalLM.from_config(llama, dtype=torch.bfloat16 if CUDA else torch.float32)
    return add_lora(config, base).eval()
