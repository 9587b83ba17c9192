"""Loading of a causal language model with LoRA, and tokenisation of samples."""

import math
from collections.abc import Sequence
from functools import cache, cached_property
from logging import getLogger

import numpy as np
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_bitsandbytes_available

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, Prompt, PromptTemplate
from recbole_dealrec.data.title import cut_titles
from recbole_dealrec.distributed import fsdp, processes
from recbole_dealrec.errors import InputError
from recbole_dealrec.model.bigrec.chat import ChatTemplate
from recbole_dealrec.model.bigrec.gguf import gguf_arguments, gguf_model_without_weights, is_gguf
from recbole_dealrec.model.bigrec.lora import add_lora
from recbole_dealrec.model.checkpoint import LOAD_ERRORS, load_error, model_without_weights
from recbole_dealrec.model.loss import vocabulary_size

# Real titles are shorter; the limit bounds the cost of training and generation with other texts.
_MOST_TITLE_TOKENS = 512
_LEAST_ROOM = 8  # tokens that a prompt must leave for titles


def check_llm(config: Config) -> tuple[PreTrainedModel, "SampleEncoder"]:
    """Return the model of ``llm_path`` on the meta device, with LoRA, and its encoder; no weights are read.

    Raises:
        InputError: the model cannot be loaded, its weights or tokenizer do not match it, it lacks a module of
            ``lora_target_modules``, or its context is too short for the prompt.
    """
    path, trusted = config["llm_path"], config["trust_remote_code"]
    if config["llm_quantization"] and not is_bitsandbytes_available():
        raise InputError('llm_quantization needs bitsandbytes: pip install -e ".[quant]" in the checkout')
    if config["llm_device_map"] and processes.launched_world_size() > 1:
        raise InputError("llm_device_map: auto is for one process, which uses all GPUs; start only one")
    if is_gguf(path):
        base = gguf_model_without_weights(path)
    else:
        base = model_without_weights("llm_path", path, AutoModelForCausalLM.from_pretrained, trust_remote_code=trusted)
    add_lora(config, base)
    tokenizer = load_tokenizer(path, trusted)
    tokens, known = 1 + max(tokenizer.eos_token_id, text_tokens(tokenizer)[-1]), vocabulary_size(base)
    if tokens > known:
        raise InputError(
            f"llm_path '{path}': the tokenizer has {tokens} tokens, the model {known}; use the tokenizer of the model"
        )
    longest = longest_row(base.config)
    if config["max_prompt_length"] + (config["max_new_tokens"] or 1) > longest:
        raise InputError(f"llm_path '{path}' reads at most {longest} tokens; lower max_prompt_length or max_new_tokens")
    encoder = SampleEncoder(tokenizer, config, [""])
    (bare,) = encoder.prompts([np.array([], dtype=np.int64)])
    if max([*bare, encoder.end_token_id]) >= known:
        raise InputError(
            f"llm_path '{path}': the prompt has tokens outside the {known} of the model; use the tokenizer of the model"
        )
    return base, encoder


def longest_row(config: PretrainedConfig) -> float:
    """Return the maximum number of tokens that a model reads, infinity if it sets no limit."""
    config = config.get_text_config(decoder=True)
    limits = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    return min((limit for limit in limits if limit and limit > 0), default=math.inf)


def text_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids that texts can be encoded to, sorted: all except special tokens."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted(set(tokenizer.get_vocab().values()) - special)


def load_tokenizer(path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint.

    Raises:
        InputError: the tokenizer cannot be loaded, or has no end token.
    """
    arguments = gguf_arguments(path) if is_gguf(path) else {"pretrained_model_name_or_path": path}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**arguments, trust_remote_code=trust_remote_code)
    except LOAD_ERRORS as error:
        raise load_error("llm_path", path, error) from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"llm_path '{path}': the tokenizer has no end token; set eos_token in tokenizer_config.json")
    return tokenizer


def load_network(config: Config, path: str) -> PeftModel:
    """Load the causal language model at ``path``, to the CPU if it will be sharded, and add LoRA.

    Raises:
        InputError: the model cannot be loaded, or has no module named in ``lora_target_modules``.
    """
    options = {
        "trust_remote_code": config["trust_remote_code"],
        "device_map": "cpu" if fsdp.is_requested() else config["llm_device_map"] or config["device"],
    }
    options["dtype"] = config["llm_dtype"] if config["llm_dtype"] == "auto" else getattr(torch, config["llm_dtype"])
    if config["llm_quantization"]:
        options["quantization_config"] = _quantization(config["llm_quantization"])
    try:
        base = AutoModelForCausalLM.from_pretrained(path, **options)
    except LOAD_ERRORS as error:
        raise load_error("llm_path", path, error) from error
    return add_lora(config, base)


def _quantization(kind: str) -> BitsAndBytesConfig:
    """Return the settings for 4-bit weights as in QLoRA (Dettmers et al., NeurIPS 2023) or 8-bit weights (LLM.int8)."""
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


class SampleEncoder:
    """Tokenise prompts and responses.

    Prompt and response are tokenised separately and joined, so that training and inference see the same prompt tokens.
    Of the tokens that a tokenizer adds around a text, only those in front are kept, because an end token would end the
    prompt. The text of a special token inside a title is encoded as plain text.

    Args:
        tokenizer: tokenizer of the language model.
        config: reads ``max_history_titles``, ``max_prompt_length``, ``chat_template`` and the prompt's texts.
        titles: titles by internal item id.
        item_texts: texts of the items in a history, by internal item id; None means the titles.

    Attributes:
        template: the prompt template.
        end_token_id: token at the end of every response.

    Raises:
        InputError: the prompt template is invalid.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: Config,
        titles: Sequence[str],
        item_texts: Sequence[str] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._chat = ChatTemplate(config, tokenizer) if config["chat_template"] else None
        self.template = self._chat or PromptTemplate(config)
        self.end_token_id = self._chat.end_token_id if self._chat else tokenizer.eos_token_id
        self.titles, self._item_texts = titles, titles if item_texts is None else item_texts
        self.max_history_titles = config["max_history_titles"]
        self.max_prompt_length = config["max_prompt_length"]
        self._cached_response = cache(self._encode_response)
        self._cached_prompts: dict[tuple[int, ...], np.ndarray] = {}

    def cached_prompts(self, histories: Sequence[np.ndarray]) -> list[list[int]]:
        """Return ``prompts``; a history is tokenised once, because training reads it in every epoch."""
        keys = [tuple(history[-self.max_history_titles :].tolist()) for history in histories]
        new = [key for key in dict.fromkeys(keys) if key not in self._cached_prompts]
        prompts = self.prompts([np.array(key, dtype=np.int64) for key in new]) if new else []
        self._cached_prompts |= {key: np.array(ids, np.int32) for key, ids in zip(new, prompts, strict=True)}
        return [self._cached_prompts[key].tolist() for key in keys]

    def prompts(self, histories: Sequence[np.ndarray]) -> list[list[int]]:
        """Return the token ids of the prompts for histories of item ids, oldest first."""
        return [ids for _, ids in self.fitted_prompts(histories)]

    def prompt_texts(self, histories: Sequence[np.ndarray]) -> list[Prompt]:
        """Return the prompts as text, without the oldest titles that do not fit."""
        return [prompt for prompt, _ in self.fitted_prompts(histories)]

    def whole_text(self, prompt: Prompt) -> str:
        """Return a prompt's text with the tokens that the tokenizer puts in front of it."""
        beginning = [] if self._chat else self.tokenizer.convert_ids_to_tokens(self._beginning)
        return "".join(beginning) + prompt.text

    def response(self, item_id: int) -> list[int]:
        """Return the token ids of an item's title as the model generates it, end token included."""
        return self._cached_response(int(item_id))

    def title_ids(self, titles: Sequence[str]) -> list[list[int]]:
        """Return the token ids of bare titles, for their embeddings."""
        rows = self._after_beginning(self._token_ids(list(titles)))
        return [row[: self.max_prompt_length] or [self.tokenizer.eos_token_id] for row in rows]

    def estimated_lengths(self, samples: CandidateSamples) -> np.ndarray:
        """Return the number of tokens of each sample's titles, int64 [n], to estimate its length."""
        return self.history_lengths(samples) + self._title_lengths[samples.item_id]

    def history_lengths(self, samples: CandidateSamples) -> np.ndarray:
        """Return the number of tokens of each truncated history's titles, int64 [n]."""
        total, room = np.zeros(len(samples), dtype=np.int64), self._title_room
        lengths = np.where(self._text_lengths > room, room // 2, self._text_lengths)
        for back in range(1, min(self.max_history_titles, samples.item_id_list.shape[1]) + 1):
            places = samples.item_length - back
            items = samples.item_id_list[np.arange(len(samples)), np.maximum(places, 0)]
            total += np.where(places >= 0, lengths[items], 0)
        return total

    @cached_property
    def _title_lengths(self) -> np.ndarray:
        """Number of tokens of each item's title in a prompt, int64 [n_items]."""
        lengths = np.array(self._lengths(self.titles))
        if long := int((lengths >= _MOST_TITLE_TOKENS).sum()):
            getLogger().warning(f"{long} titles have {_MOST_TITLE_TOKENS} tokens or more; as targets they are cut")
        return lengths

    @cached_property
    def _text_lengths(self) -> np.ndarray:
        """Number of tokens of each item's text in a history, int64 [n_items]."""
        is_title = self._item_texts is self.titles
        return self._title_lengths if is_title else np.array(self._lengths(self._item_texts))

    def _lengths(self, titles: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._token_ids([self.template.list_titles([title]) for title in titles])]

    @cached_property
    def _title_room(self) -> int:
        """Maximum number of tokens of a title in a prompt."""
        (bare,) = self._prompt_ids([self.template.render([""])])
        limit = self.max_prompt_length
        if (room := (limit - len(bare)) // self.template.n_lists) < _LEAST_ROOM:
            raise InputError(f"max_prompt_length is {limit}, a prompt without titles has {len(bare)} tokens; raise it")
        return room

    @cached_property
    def _prompt_titles(self) -> list[str]:
        """Texts in prompts by internal item id; those that do not fit into any prompt are cut to half of the room."""
        lengths, room = self._text_lengths, self._title_room
        return cut_titles(self._item_texts, lengths > room, room // 2, lambda title: self._lengths([title])[0])

    def _token_ids(self, texts: list[str], add_special_tokens: bool = False) -> list[list[int]]:
        """Return token ids of texts; the text of a special token is encoded as plain text."""
        options = {"add_special_tokens": add_special_tokens, "split_special_tokens": True, "verbose": False}
        return self.tokenizer(texts, **options)["input_ids"]

    def _after_beginning(self, rows: list[list[int]]) -> list[list[int]]:
        """Return token ids with the tokens that the tokenizer puts in front of a text."""
        return [[*self._beginning, *row] for row in rows]

    @cached_property
    def _beginning(self) -> list[int]:
        """Tokens that the tokenizer puts in front of a text, such as the beginning token."""
        text = [self.template.list_titles(["title"])]
        (whole,), (plain,) = self._token_ids(text, add_special_tokens=True), self._token_ids(text)
        starts = range(len(whole) - len(plain) + 1)
        return whole[: next((start for start in starts if whole[start : start + len(plain)] == plain), 0)]

    def _encode_response(self, item_id: int) -> list[int]:
        text = self.template.response(self.titles[item_id])
        (ids,) = self._token_ids([text])
        return [*ids[: _MOST_TITLE_TOKENS - 1], self.end_token_id]

    def _prompt_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        if self._chat:
            return self._chat.token_ids(prompts)
        return self._after_beginning(self._token_ids([prompt.text for prompt in prompts]))

    def fitted_prompts(self, histories: Sequence[np.ndarray]) -> list[tuple[Prompt, list[int]]]:
        """Return text and token ids of the prompts, without the oldest titles of those that are too long."""
        fitted: list = [None] * len(histories)
        titles = self._prompt_titles
        kept = [list(history[-self.max_history_titles :]) for history in histories]
        pending = list(range(len(histories)))
        while pending:
            prompts = [self.template.render([titles[item] for item in kept[row]]) for row in pending]
            encoded = self._prompt_ids(prompts)
            too_long = []
            for row, prompt, ids in zip(pending, prompts, encoded, strict=True):
                if len(ids) <= self.max_prompt_length:
                    fitted[row] = (prompt, ids)
                else:  # it has several titles, as each title fits alone
                    del kept[row][0]
                    too_long.append(row)
            pending = too_long
        return fitted
