"""Tests of what a language model supports, on a small model of the same class, before a run computes anything."""

import json
import re
import tempfile
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from recbole_dealrec.config import Config
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.bigrec.collation import collate
from recbole_dealrec.model.bigrec.llm import SampleEncoder, text_tokens
from recbole_dealrec.model.bigrec.lora import add_lora, load_adapter, missing_targets, save_adapter
from recbole_dealrec.model.bigrec.small import small_model
from recbole_dealrec.model.decoding.beam_search import Way, beam_search
from recbole_dealrec.model.decoding.trie import TokenTrie
from recbole_dealrec.model.loss import (
    accepted_inputs,
    accepted_options,
    last_hidden_states,
    sample_losses,
    vocabulary_size,
)

_TOKENS = 32  # minimum number of different tokens
_WAYS: dict[Way, str] = {
    "shared": "beams of a prompt share its cache",
    "copied": "beams that share a cache are not exact, so each beam has a copy of the prompt's cache",
    "recomputed": "its cache cannot be used, so each beam is recomputed with its prompt, which is slower",
}
_TOLERANCE = 1e-3  # rounding errors are below 1e-5, real errors above 1e-2
_WINDOW = 6
_found: dict[str, Way] = {}
_SHARED, _OWN = 6, (8, 3)  # number of tokens that both prompts share, and that each has alone
# Titles as indices of tokens; some share their first tokens.
_TITLES = ((0, 1), (0, 2), (3,), (4, 0, 1), (4, 0, 2), (5,))


class Rows(NamedTuple):
    """Token ids of two prompts of different lengths and of the titles that may follow."""

    prompts: list[list[int]]
    titles: list[list[int]]
    end: int

    @classmethod
    def of(cls, encoder: SampleEncoder) -> "Rows":
        """Draw tokens from the vocabulary, to follow the tokens that begin a prompt."""
        (begun,), vocabulary = encoder.title_ids([""]), text_tokens(encoder.tokenizer)
        known = vocabulary[:: max(1, len(vocabulary) // _TOKENS)]
        begin = [] if begun == [encoder.tokenizer.eos_token_id] else begun
        draw = lambda count: np.random.default_rng(count).choice(known, count).tolist()  # noqa: E731
        first = [*begin, *draw(_SHARED)]
        titles = [[*(known[place] for place in places), encoder.end_token_id] for places in _TITLES]
        return cls([first + draw(count) for count in _OWN], titles, encoder.end_token_id)


class Probe:
    """A small model with LoRA, of the class that a run fine-tunes, and the tests that it must pass.

    Args:
        config: reads the keys of LoRA and the length of the prompt.
        base: the run's model, on any device; no weights are read.
        encoder: its encoder.

    Attributes:
        network: the small model, float32 on the CPU.
        rows: prompts and titles for it.
    """

    def __init__(self, config: Config, base: PreTrainedModel, encoder: SampleEncoder) -> None:
        self.rows = Rows.of(encoder)
        self._config, self._kind = config, type(base).__name__
        longest = config["max_prompt_length"] + (config["max_new_tokens"] or 0)
        try:
            self.network = _with_lora(config, small_model(base, _WINDOW, longest))
        except InputError as error:
            raise self._refusal(str(error)) from error

    def batch(self) -> dict[str, Tensor]:
        """Return the batch of both prompts, each with its own title."""
        return collate(self.rows.prompts, self.rows.titles[::3], self.rows.end)

    def check(self) -> None:
        """Raise InputError if the model cannot be used even in the simplest way."""
        checks = (
            (self._is_causal, "later tokens change earlier logits, it is no causal language model"),
            (self._ignores_padding, "padding on the left changes its logits"),
            (self._losses_are_right, "the losses of a batch differ from those of its single rows"),
            (self._embeds, "its last hidden states cannot be read"),
            (self._trains, "LoRA on {targets} has no effect on it"),
            (self._is_restored, "LoRA on {targets} is not the same after saving and loading"),
        )
        for holds, reason in checks:
            reason = reason.format(targets=list(self._config["lora_target_modules"]))
            try:
                held = holds()
            except Exception as error:  # a model may raise any type of error
                raise self._refusal(f"{reason}: {_in_words(error)}") from error
            if not held:
                raise self._refusal(reason)

    def fastest_way(self) -> Way:
        """Return the fastest way of computing beams that agrees with scoring each title separately.

        Raises:
            InputError: no way does.
        """
        for way in _WAYS:
            try:
                if self._beams_are_right(way):
                    return way
                reason = "its beams are not the likeliest titles"
            except Exception as error:  # as in check
                reason = f"its beams fail: {_in_words(error)}"
        raise self._refusal(reason)

    @torch.no_grad()
    def _logits(self, row: Sequence[int]) -> Tensor:
        """Return the logits of a single row, [T, vocab]."""
        inputs = {"input_ids": torch.tensor([row])}
        return self.network(**inputs, **accepted_options(self.network, use_cache=False)).logits[0].float()

    def _is_causal(self) -> bool:
        before = self.rows.prompts[0]
        first, second = (self._logits([*before, token])[: len(before)] for token in self.rows.titles[0][:2])
        return _close(first, second)

    @torch.no_grad()
    def _ignores_padding(self) -> bool:
        inputs = accepted_inputs(self.network, collate(self.rows.prompts, None, self.rows.end))
        batched = self.network(**inputs, **accepted_options(self.network, use_cache=False)).logits.float()
        pairs = zip(batched, self.rows.prompts, strict=True)
        return all(_close(logits[-len(row) :], self._logits(row)) for logits, row in pairs)

    def _losses_are_right(self) -> bool:
        with torch.no_grad():
            losses = sample_losses(self.network, self.batch())
        pairs = zip(self.rows.prompts, self.rows.titles[::3], strict=True)
        alone = [-self._likelihood(prompt, title) / len(title) for prompt, title in pairs]
        return _close(losses, torch.tensor(alone))

    @torch.no_grad()
    def _embeds(self) -> bool:
        batch = collate(self.rows.prompts, None, self.rows.end)
        together = last_hidden_states(self.network, batch)[:, -1]
        alone = [last_hidden_states(self.network, collate([row], None, 0))[0, -1] for row in self.rows.prompts]
        return _close(together, torch.stack(alone))

    def _trains(self) -> bool:
        trained = _trained(self.network)
        loss = sample_losses(self.network, self.batch()).sum()
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        changing = [name for name, each in zip(trained, gradients, strict=True) if each is not None and each.any()]
        targets = self.network.peft_config["default"].target_modules
        return all(any(f".{target}." in name for name in changing) for target in targets)

    def _is_restored(self) -> bool:
        before = self._logits(self.rows.prompts[0])
        with tempfile.TemporaryDirectory() as folder:
            save_adapter(self.network, Path(folder), folder)
            for parameter in _trained(self.network).values():
                parameter.data.zero_()
            unadapted = self._logits(self.rows.prompts[0])
            load_adapter(self.network, Path(folder), "cpu")
        return _close(self._logits(self.rows.prompts[0]), before) and not _close(unadapted, before)

    def _beams_are_right(self, way: Way) -> bool:
        batch = collate(self.rows.prompts, None, self.rows.end)
        end, trie = self.rows.end, TokenTrie(self.rows.titles, vocabulary_size(self.network))
        found, scores = beam_search(
            self.network, batch["input_ids"], batch["attention_mask"], num_beams=len(self.rows.titles),
            max_new_tokens=trie.depth, eos_token_id=end, pad_token_id=end, trie=trie, way=way,
        )  # fmt: skip
        expected = []
        for prompt, sequences in zip(self.rows.prompts, found.tolist(), strict=True):
            titles = [sequence[: sequence.index(end) + 1] for sequence in sequences]
            if sorted(titles) != sorted(self.rows.titles):
                return False
            expected.append([self._likelihood(prompt, title) for title in titles])
        return _close(scores, torch.tensor(expected))

    def _likelihood(self, prompt: Sequence[int], title: Sequence[int]) -> float:
        """Return the log-likelihood of a title after a prompt."""
        logits = self._logits([*prompt, *title])[len(prompt) - 1 : -1]
        return -float(nn.functional.cross_entropy(logits, torch.tensor(title), reduction="sum"))

    def _refusal(self, reason: str) -> InputError:
        return InputError(f"llm_path '{self._config['llm_path']}': {self._kind} cannot be used: {reason}")


def fastest_way(config: Config, base: PreTrainedModel, encoder: SampleEncoder) -> Way:
    """Test a small model of the class of ``base``; return the fastest way of computing beams with it.

    The result is kept in memory; a slower way than "shared" is logged.

    Raises:
        InputError: the model cannot be used even in the simplest way.
    """
    targets = [*config["lora_target_modules"], config["lora_r"], config["lora_alpha"], config["max_prompt_length"]]
    key = json.dumps([type(base).__qualname__, base.config.to_json_string(use_diff=False), targets, Rows.of(encoder)])
    if key not in _found:
        probe = Probe(config, base, encoder)
        probe.check()
        _found[key] = probe.fastest_way()
        if _found[key] != "shared":
            getLogger().info(f"{type(base).__name__}: {_WAYS[_found[key]]}")
    return _found[key]


def _with_lora(config: Config, small: PreTrainedModel) -> PeftModel:
    """Add LoRA with random matrices; targets in layers that the small model lacks are tried in its first layer."""
    targets = config["lora_target_modules"]
    absent = missing_targets(small, targets)
    moved = [re.sub(r"(?<![^.])\d+(?![^.])", "0", target) if target in absent else target for target in targets]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = add_lora(config, small, sorted(set(moved))).eval()
        for parameter in _trained(network).values():
            nn.init.normal_(parameter, std=0.3)
    return network


def _trained(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def _close(found: Tensor, expected: Tensor) -> bool:
    """Return whether two tensors are equal up to rounding; False if one is not finite."""
    scale = float(expected.abs().max())
    return found.shape == expected.shape and bool((found - expected).abs().max() <= _TOLERANCE * scale)


def _in_words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
