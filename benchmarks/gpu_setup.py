"""Inputs of the parts of gpu.py: the language model, Games, and small replacements for both."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from generated import write_games_like
from torch import Tensor

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, PromptTemplate, Splits, load_splits
from recbole_dealrec.model import BIGRec
from recbole_dealrec.model.bigrec.tiny_llama import create_model, save, train_tokenizer
from recbole_dealrec.model.decoding.beam_search import beam_search
from recbole_dealrec.model.decoding.trie import TokenTrie

BEAMS = 10
# Keys that make a run small.
SMALL = {
    "n_fewshot": 32, "epochs": 2, "n_valid": 20, "n_surrogates": 1, "surrogate_epochs": 2, "hessian_samples": 64,
    "MAX_ITEM_LIST_LENGTH": 10,
}  # fmt: skip
SMALL_TIGER = {"t5_num_layers": 1, "t5_num_heads": 2, "t5_d_model": 32, "t5_d_kv": 16, "t5_d_ff": 64, "num_beams": 20}


@dataclass(frozen=True)
class Setup:
    """A language model and the folder that contains ``games/``.

    Attributes:
        llm: ``llm_path``.
        games: ``data_path``.
        checkpoint_dir: folder of run folders.
        small: whether they are replacements, so that everything else is small, too.
    """

    llm: str
    games: str
    checkpoint_dir: Path
    small: bool

    @classmethod
    def smoke(cls, folder: Path) -> "Setup":
        """Return a setup with random data and a Llama with random weights in ``folder``; write them if absent."""
        games, llm = small_games(folder), folder / "llm"
        if not llm.is_dir():
            keys = {"data_path": games, "llm_path": str(llm)}  # the prompt is not that of the tiny model
            prompt = PromptTemplate(Config("BIGRec", "games", config_dict=keys)).render([]).text
            tokenizer = train_tokenizer([prompt, "game number 0123456789"] * 20, 1000, 1024)
            save(llm, create_model(tokenizer, hidden_size=32, n_layers=2, n_heads=2, seed=0), tokenizer)
        return cls(str(llm), games, folder / "saved", small=True)

    def config(self, model: str = "BIGRec", **keys: Any) -> Config:
        """Return the configuration of the recommender on Games."""
        return Config(model, "games", config_dict={**self.keys, **keys})

    @property
    def keys(self) -> dict[str, Any]:
        """Return the configuration keys of all runs."""
        own = {
            "llm_path": self.llm, "data_path": self.games, "checkpoint_dir": str(self.checkpoint_dir),
            "show_progress": False, "state": "WARNING", "topk": [10, 20],
        }  # fmt: skip
        return {**own, **(SMALL if self.small else {})}

    def about(self, seconds: float) -> float:
        """Return the probable seconds of a measurement, given those with the real inputs on a large GPU."""
        return seconds / 10 if self.small else seconds

    def size(self, count: int) -> int:
        """Return how many samples or queries to measure on, given the number on a GPU."""
        return count // 8 if self.small else count

    @cached_property
    def splits(self) -> Splits:
        return load_splits(self.config())

    @cached_property
    def candidates(self) -> CandidateSamples:
        return CandidateSamples.from_dataset(self.splits.train, self.config()["samples_per_user"])

    def recommender(self, **keys: Any) -> BIGRec:
        """Return the language model with random LoRA matrices, the same for any dtype and device."""
        llm = BIGRec(self.config(**keys), self.splits.train).eval()
        generator = torch.Generator().manual_seed(0)
        for parameter in llm.network.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        return llm


def small_games(folder: Path) -> str:
    """Write small data in the form of Games, unless they exist; return the ``data_path``."""
    if not (folder / "games" / "games.item").is_file():
        write_games_like(folder, users=160, items=60, valid=80)
    return str(folder)


def title_trie(llm: BIGRec, vocab_size: int) -> TokenTrie:
    """Return the trie of all titles of the catalogue, in tokens of the language model's tokenizer."""
    titles = [llm.encoder.response(item) for item in range(1, llm.n_items)]
    return TokenTrie(titles, vocab_size).to(llm.device)


def written(llm: BIGRec, batch: dict[str, Tensor], trie: TokenTrie) -> tuple[Tensor, Tensor]:
    """Return the likeliest titles for the prompts of a batch, and their log-likelihoods."""
    end = llm.tokenizer.eos_token_id
    return beam_search(
        llm.network, batch["input_ids"], batch["attention_mask"], num_beams=BEAMS, max_new_tokens=trie.depth,
        eos_token_id=end, pad_token_id=end, trie=trie,
    )  # fmt: skip
