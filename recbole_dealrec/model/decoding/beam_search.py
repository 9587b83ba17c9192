"""The beam search that a recommender writes titles (BIGRec, arXiv 2308.08434) or semantic IDs (TIGER) with."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from recbole_dealrec.distributed.fsdp import any_process, is_sharded
from recbole_dealrec.model.decoding.trie import TokenTrie
from recbole_dealrec.model.loss import head_reads

Decoder = Callable[[Tensor, Tensor], Tensor]


class Beams(NamedTuple):
    """Tokens [B, N, S], summed log-likelihoods [B, N], nodes of the trie [B, N] and beams that these continue [B, N].

    A beam without a sequence scores -inf.
    """

    tokens: Tensor
    scores: Tensor
    nodes: Tensor
    parents: Tensor

    @classmethod
    def start(cls, batch: int, count: int, score: float, device: torch.device) -> "Beams":
        zeros = torch.zeros(batch, count, dtype=torch.int64, device=device)
        return cls(zeros.new_empty(batch, count, 0), torch.full((batch, count), score, device=device), zeros, zeros)

    def best(self, count: int) -> "Beams":
        scores, index = self.scores.topk(count)
        return Beams(_take(self.tokens, index), scores, self.nodes.gather(1, index), self.parents.gather(1, index))

    def only(self, keep: Tensor) -> "Beams":
        return self._replace(scores=self.scores.masked_fill(~keep, -torch.inf))

    def first(self, count: int) -> "Beams":
        return Beams(*(values[:, :count] for values in self))


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Rows index [B, M] of values [B, N, S]: [B, M, S]."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _continue(beams: Beams, logits: Tensor, trie: TokenTrie | None, count: int) -> Beams:
    """The count best continuations by logits [B, N, vocab], best first; -inf where there are fewer."""
    logits = logits.float()
    before = (beams.scores - logits.logsumexp(-1)).unsqueeze(-1)
    if trie is None:
        scores = logits + before
    else:
        # Few tokens lead on, so ranking those alone is cheaper than masking the vocabulary.
        tokens, nodes, exists = trie.successors(beams.nodes.masked_fill(beams.scores.isneginf(), trie.dead))
        scores = (logits.gather(-1, tokens) + before).masked_fill(~exists, -torch.inf)
    width, size = scores.shape[-1], scores[0].numel()
    scores, index = pad(scores.flatten(1), (0, max(0, count - size)), value=-torch.inf).topk(count)
    index = index.clamp(max=size - 1)
    parents = index // width
    chosen = index % width if trie is None else tokens.flatten(1).gather(1, index)
    nodes = torch.zeros_like(index) if trie is None else nodes.flatten(1).gather(1, index)
    return Beams(torch.cat([_take(beams.tokens, parents), chosen.unsqueeze(-1)], -1), scores, nodes, parents)


def _finish(finished: Beams, ended: Beams, pad_token_id: int) -> Beams:
    """The best of what was finished before and of the first half of what ends now."""
    count = finished.scores.shape[1]
    finished = finished._replace(tokens=pad(finished.tokens, (0, 1), value=pad_token_id))
    empty = ended.scores.isneginf().unsqueeze(-1)
    ended = ended._replace(tokens=ended.tokens.masked_fill(empty, pad_token_id))
    return Beams(*(torch.cat([old, new[:, :count]], 1) for old, new in zip(finished, ended, strict=True))).best(count)


class _SharedPrompt:
    """Decodes the beams of a query as tokens of one sequence, each masked to the prompt and its own ancestors.

    So the prompt's keys and values are neither copied for each beam nor reordered, most of the cost of a short answer.
    """

    def __init__(self, model: PreTrainedModel, cache: Cache, attention_mask: Tensor) -> None:
        self._model, self._cache, self._prompt = model, cache, attention_mask.bool().unsqueeze(1)
        self._positions, self._ancestors = attention_mask.sum(1, keepdim=True), self._prompt[:, :, :0]

    def __call__(self, parents: Tensor, tokens: Tensor) -> Tensor:
        batch, beams = tokens.shape
        itself = torch.eye(beams, dtype=torch.bool, device=tokens.device).expand(batch, -1, -1)
        self._ancestors = torch.cat([_take(self._ancestors, parents), itself], -1)
        visible = torch.cat([self._prompt.expand(-1, beams, -1), self._ancestors], -1).unsqueeze(1)
        hidden = torch.zeros(visible.shape, dtype=self._model.dtype, device=tokens.device)
        hidden.masked_fill_(~visible, torch.finfo(hidden.dtype).min)
        logits = _forward(self._model, tokens, hidden, self._positions.expand(-1, beams), self._cache).logits
        self._positions = self._positions + 1
        return logits


class _CopiedPrompt:
    """Decodes every beam as a sequence of its own; for models whose attention takes no mask of ours."""

    def __init__(self, model: PreTrainedModel, cache: Cache, attention_mask: Tensor) -> None:
        self._model, self._cache, self._mask, self._width = model, cache, attention_mask, 1

    def __call__(self, parents: Tensor, tokens: Tensor) -> Tensor:
        offsets = torch.arange(len(parents), device=parents.device).unsqueeze(1) * self._width
        rows, self._width = (parents + offsets).flatten(), parents.shape[1]
        self._cache.reorder_cache(rows)
        positions = self._mask[rows].sum(1, keepdim=True)
        self._mask = pad(self._mask[rows], (0, 1), value=1)
        logits = _forward(self._model, tokens.reshape(-1, 1), self._mask, positions, self._cache).logits
        return logits.view(*tokens.shape, -1)


def _forward(
    model: PreTrainedModel, tokens: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None, **options: int
) -> CausalLMOutputWithPast:
    return model(
        input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **options
    )


def _prefill(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Decoder]:
    """Logits [B, 1, vocab] after the prompts, and what decodes on from there."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(plain.forward).parameters else {}
    positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    with head_reads(model):
        output = _forward(model, input_ids, attention_mask, positions, None, **last_only)
    cache = output.past_key_values
    # Flash attention takes no mask of this kind, and layers of a sliding window drop keys by their place in the cache.
    shares = plain.config._attn_implementation in ("sdpa", "eager") and all(
        type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None])
    )
    return output.logits[:, -1:], (_SharedPrompt if shares else _CopiedPrompt)(model, cache, attention_mask)


def beam_search(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    num_beams: int,
    max_new_tokens: int,
    eos_token_id: int,
    pad_token_id: int,
    trie: TokenTrie | None = None,
) -> tuple[Tensor, Tensor]:
    """The num_beams likeliest continuations of each prompt that a beam search finds.

    Finds what ``generate`` of transformers finds with ``num_beams``, ``length_penalty=0`` and ``early_stopping=False``,
    but computes each prompt once instead of once per beam, and reads nothing of the model's ``generation_config``.

    Args:
        model: causal LM, or a PEFT model of one, in evaluation mode.
        input_ids: prompts, int64 [B, T], padded on the left.
        attention_mask: int64 [B, T], 0 on padding.
        num_beams: beams per prompt.
        max_new_tokens: most tokens to generate, the end token included. With a trie, longer titles are not found;
            without, what is longer is cut and counts as finished.
        eos_token_id: end token.
        pad_token_id: token behind the end token.
        trie: sequences that may be generated; on the device of the prompts.

    Returns:
        sequences, int64 [B, num_beams, S]: generated tokens, S <= max_new_tokens; scores, float32 [B, num_beams]:
        log-likelihood, end token included, best first. A beam without a sequence is all padding and scores -inf.

    Raises:
        ValueError: num_beams or max_new_tokens below 1, or a trie with another end token.
    """
    if num_beams < 1 or max_new_tokens < 1:
        raise ValueError(f"num_beams ({num_beams}) and max_new_tokens ({max_new_tokens}) have to be at least 1")
    if trie is not None and trie.end_token != eos_token_id:
        raise ValueError(f"sequences of the trie end with token {trie.end_token}, not with {eos_token_id}")
    with torch.no_grad():
        logits, decode = _prefill(model, input_ids, attention_mask)
        goes_on = any_process if is_sharded(model) else bool
        finished = search(logits, decode, num_beams, max_new_tokens, trie, eos_token_id, pad_token_id, goes_on)
    return finished.tokens, finished.scores


def search(
    logits: Tensor,
    decode: Decoder,
    count: int,
    length: int,
    trie: TokenTrie | None,
    eos_token_id: int | None = None,
    pad_token_id: int = 0,
    goes_on: Callable[[bool], bool] = bool,
) -> Beams:
    """The beam search of ``beam_search`` for any decoder.

    Args:
        logits: logits of the first token, [B, 1, vocab].
        decode: takes the index of the beam that each beam continues and its latest token, int64 [B, N] each, and
            returns the logits of the token that comes next, [B, N, vocab].
        count: beams per row.
        length: most tokens of a sequence.
        trie: sequences that may be written.
        eos_token_id: end token; needed without a trie only.
        pad_token_id: token behind the end of a sequence.
        goes_on: whether the search goes on, of whether a better sequence can be found here; another token changes
            nothing where none can.

    Returns:
        The count best finished sequences of each row, best first.
    """
    running = Beams.start(len(logits), 1, 0.0, logits.device)
    finished = Beams.start(len(logits), count, -torch.inf, logits.device)
    for left in reversed(range(length)):
        # Every beam ends in one way only, so at least count of them keep running.
        candidates = _continue(running, logits, trie, 2 * count)
        ended = candidates.tokens[..., -1] == eos_token_id if trie is None else trie.leaf(candidates.nodes) >= 0
        finished = _finish(finished, candidates.only(ended | (trie is None and not left)), pad_token_id)
        # Scores only fall: a beam that is not above the worst finished one never gets in.
        running = candidates.only(~ended & (candidates.scores > finished.scores[:, -1:])).best(count)
        width = int((~running.scores.isneginf()).sum(1).max())
        if not left or not goes_on(width > 0):
            return finished
        running = running.first(max(1, width))  # one at least: other processes may go on
        logits = decode(running.parents, running.tokens[..., -1])
    return finished
