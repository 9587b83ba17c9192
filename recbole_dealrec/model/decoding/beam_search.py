"""Beam search for titles (BIGRec, arXiv 2308.08434) or semantic IDs (TIGER)."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from recbole_dealrec.compat import cache_name
from recbole_dealrec.distributed.fsdp import any_process, is_sharded
from recbole_dealrec.model.decoding.trie import TokenTrie
from recbole_dealrec.model.loss import accepted_inputs, accepted_options, head_reads, unwrapped

Decoder = Callable[[Tensor, Tensor], Tensor]
# How the beams of a prompt are computed: together in one cache, each with a copy of the prompt's cache, or without a
# cache. Each way requires less of the model and costs more than the one before.
Way = Literal["shared", "copied", "recomputed"]


class Beams(NamedTuple):
    """N beams per row.

    Attributes:
        tokens: int64 [B, N, S].
        scores: summed log-likelihoods, float32 [B, N]; -inf for a beam without a sequence.
        nodes: nodes of the trie, int64 [B, N].
        parents: index of the beam that each beam continues, int64 [B, N].
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
        return Beams(take_rows(self.tokens, index), scores, self.nodes.gather(1, index), self.parents.gather(1, index))

    def masked(self, keep: Tensor) -> "Beams":
        return self._replace(scores=self.scores.masked_fill(~keep, -torch.inf))

    def first(self, count: int) -> "Beams":
        return Beams(*(values[:, :count] for values in self))


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """Return the rows ``index`` [B, M] of values [B, N, S], as [B, M, S]."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the additive attention mask: 0 where a key is visible, else the lowest number of ``dtype``."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)


def _continuations(beams: Beams, logits: Tensor, trie: TokenTrie | None, count: int) -> Beams:
    """Return the ``count`` best continuations by logits [B, N, vocab], best first; scores of absent ones are -inf."""
    logits = logits.float()
    before = (beams.scores - logits.logsumexp(-1)).unsqueeze(-1)
    if trie is None:
        scores = logits + before
    else:
        # A node has few successors, so ranking them is cheaper than masking the vocabulary.
        tokens, nodes, exists = trie.successors(beams.nodes.masked_fill(beams.scores.isneginf(), trie.dead))
        scores = (logits.gather(-1, tokens) + before).masked_fill(~exists, -torch.inf)
    width, size = scores.shape[-1], scores[0].numel()
    scores, index = pad(scores.flatten(1), (0, max(0, count - size)), value=-torch.inf).topk(count)
    index = index.clamp(max=size - 1)
    parents = index // width
    chosen = index % width if trie is None else tokens.flatten(1).gather(1, index)
    nodes = torch.zeros_like(index) if trie is None else nodes.flatten(1).gather(1, index)
    return Beams(torch.cat([take_rows(beams.tokens, parents), chosen.unsqueeze(-1)], -1), scores, nodes, parents)


def _best_finished(finished: Beams, ended: Beams, pad_token_id: int) -> Beams:
    """Return the best of the finished beams and the first half of the beams that end now."""
    count = finished.scores.shape[1]
    finished = finished._replace(tokens=pad(finished.tokens, (0, 1), value=pad_token_id))
    empty = ended.scores.isneginf().unsqueeze(-1)
    ended = ended._replace(tokens=ended.tokens.masked_fill(empty, pad_token_id))
    return Beams(*(torch.cat([old, new[:, :count]], 1) for old, new in zip(finished, ended, strict=True))).best(count)


class _SharedPrompt:
    """Decode the beams of a query as tokens of one sequence; each token attends to the prompt and its ancestors.

    The prompt's keys and values are not copied or reordered per beam, which would be most of the cost of a short title.
    """

    def __init__(self, model: PreTrainedModel, cache: Cache, attention_mask: Tensor) -> None:
        self._model, self._cache, self._prompt = model, cache, attention_mask.bool().unsqueeze(1)
        self._positions, self._ancestors = attention_mask.sum(1, keepdim=True), self._prompt[:, :, :0]

    def __call__(self, parents: Tensor, tokens: Tensor) -> Tensor:
        batch, beams = tokens.shape
        itself = torch.eye(beams, dtype=torch.bool, device=tokens.device).expand(batch, -1, -1)
        self._ancestors = torch.cat([take_rows(self._ancestors, parents), itself], -1)
        visible = torch.cat([self._prompt.expand(-1, beams, -1), self._ancestors], -1).unsqueeze(1)
        mask = additive_mask(visible, self._model.dtype)
        logits = _forward(self._model, tokens, mask, self._positions.expand(-1, beams), self._cache).logits
        self._positions = self._positions + 1
        return logits


class _CopiedPrompt:
    """Decode every beam as a separate sequence, for models whose attention supports no additive mask."""

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


class _Recomputed:
    """Decode every beam by recomputing prompt and beam, for models whose cache cannot be changed from outside."""

    def __init__(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> None:
        self._model, self._prompt, self._mask = model, input_ids, attention_mask
        self._tokens = input_ids.new_empty(len(input_ids), 1, 0)

    def __call__(self, parents: Tensor, tokens: Tensor) -> Tensor:
        self._tokens = torch.cat([take_rows(self._tokens, parents), tokens.unsqueeze(-1)], -1)
        return self.logits()

    def logits(self) -> Tensor:
        """Return the logits after the beams, [B, N, vocab]."""
        batch, beams, length = self._tokens.shape
        prompts = self._prompt.unsqueeze(1).expand(-1, beams, -1)
        rows = torch.cat([prompts, self._tokens], -1).flatten(0, 1)
        mask = pad(self._mask.repeat_interleave(beams, 0), (0, length), value=1)
        inputs = {"input_ids": rows, "attention_mask": mask, "position_ids": _positions(mask)}
        options = accepted_options(self._model, logits_to_keep=1, use_cache=False)
        with head_reads(self._model):
            return self._model(**accepted_inputs(self._model, inputs), **options).logits[:, -1].view(batch, beams, -1)


def _positions(attention_mask: Tensor) -> Tensor:
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def _forward(
    model: PreTrainedModel, tokens: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None, **options: int
) -> CausalLMOutputWithPast:
    inputs = accepted_inputs(model, {"input_ids": tokens, "attention_mask": mask, "position_ids": positions})
    return model(**inputs, **{_cache_name(model): cache}, use_cache=True, **options)


def _cache_name(model: PreTrainedModel) -> str:
    return cache_name(unwrapped(model).forward)


def _prefill(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, way: Way) -> tuple[Tensor, Decoder]:
    """Return the logits [B, 1, vocab] after the prompts, and a decoder of the tokens that follow."""
    if way == "recomputed":
        decoder = _Recomputed(model, input_ids, attention_mask)
        return decoder.logits(), decoder
    options = accepted_options(model, logits_to_keep=1)
    with head_reads(model):
        output = _forward(model, input_ids, attention_mask, _positions(attention_mask), None, **options)
    cache = getattr(output, _cache_name(model))
    # Flash attention supports no additive mask; sliding-window layers drop keys by their position in the cache.
    shares = way == "shared" and unwrapped(model).config._attn_implementation in ("sdpa", "eager")
    shares = shares and all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None]))
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
    way: Way = "shared",
) -> tuple[Tensor, Tensor]:
    """Generate the ``num_beams`` most likely continuations of each prompt.

    The result equals that of ``generate`` of transformers with ``num_beams``, ``length_penalty=0`` and
    ``early_stopping=False``, but each prompt is computed once instead of once per beam, and the model's
    ``generation_config`` is not read.

    Args:
        model: causal LM, or a PEFT model of one, in evaluation mode.
        input_ids: prompts, int64 [B, T], padded on the left.
        attention_mask: int64 [B, T], 0 on padding.
        num_beams: beams per prompt.
        max_new_tokens: maximum number of tokens to generate, including the end token. With a trie, longer sequences are
            not found; without a trie, they are truncated and count as finished.
        eos_token_id: end token.
        pad_token_id: token after the end token.
        trie: sequences that may be generated, on the device of the prompts.
        way: how the beams are computed; "shared" becomes "copied" if the attention needs it.

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
        logits, decode = _prefill(model, input_ids, attention_mask, way)
        any_running = any_process if is_sharded(model) else bool
        finished = search(logits, decode, num_beams, max_new_tokens, trie, eos_token_id, pad_token_id, any_running)
    return finished.tokens, finished.scores


def search(
    logits: Tensor,
    decode: Decoder,
    count: int,
    length: int,
    trie: TokenTrie | None,
    eos_token_id: int | None = None,
    pad_token_id: int = 0,
    any_running: Callable[[bool], bool] = bool,
) -> Beams:
    """Run the beam search of ``beam_search`` with any decoder.

    Args:
        logits: logits of the first token, [B, 1, vocab].
        decode: receives the index of the beam that each beam continues and its latest token, int64 [B, N] each, and
            returns the logits of the next token, [B, N, vocab].
        count: beams per row.
        length: maximum number of tokens of a sequence.
        trie: sequences that may be generated.
        eos_token_id: end token; only needed without a trie.
        pad_token_id: token after the end of a sequence.
        any_running: receives whether this process has running beams, and returns whether any process has some.

    Returns:
        The ``count`` best finished sequences of each row, best first.
    """
    running = Beams.start(len(logits), 1, 0.0, logits.device)
    finished = Beams.start(len(logits), count, -torch.inf, logits.device)
    for left in reversed(range(length)):
        # A beam has one ending at most, so at least ``count`` of the candidates keep running.
        candidates = _continuations(running, logits, trie, 2 * count)
        ended = candidates.tokens[..., -1] == eos_token_id if trie is None else trie.leaf(candidates.nodes) >= 0
        finished = _best_finished(finished, candidates.masked(ended | (trie is None and not left)), pad_token_id)
        # Scores only fall: a beam that is not above the worst finished one cannot replace it.
        running = candidates.masked(~ended & (candidates.scores > finished.scores[:, -1:])).best(count)
        width = int((~running.scores.isneginf()).sum(1).max())
        if not left or not any_running(width > 0):
            return finished
        running = running.first(max(1, width))  # at least one, as other processes may continue
        logits = decode(running.parents, running.tokens[..., -1])
    return finished
