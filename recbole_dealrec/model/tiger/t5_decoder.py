"""Parallel decoding of many prefixes of short sequences with a T5."""

import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from recbole_dealrec.compat import cache_name
from recbole_dealrec.model.decoding.beam_search import additive_mask, take_rows


class PrefixDecoder:
    """Decode the prefixes of a query as tokens of one sequence; each token attends to its ancestors.

    The encoder runs once, all prefixes of a query share its keys and values, and the cache is never reordered. The
    relative position bias is that of the token's position in its prefix.

    Args:
        network: T5 in evaluation mode.
        input_ids: int64 [B, T], padded on either side.
        attention_mask: int64 [B, T], 0 on padding.
        depth: length of the longest sequence.
    """

    def __init__(
        self, network: T5ForConditionalGeneration, input_ids: Tensor, attention_mask: Tensor, depth: int
    ) -> None:
        self._network = network
        self._encoded = network.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        self._source = additive_mask(attention_mask.bool()[:, None, None], self._encoded.dtype)
        self._cross_cache = DynamicCache()
        attention = network.decoder.block[0].layer[0].SelfAttention
        self._bias = attention.compute_bias(depth, depth)[0]  # [heads, length of a prefix, length of its ancestor]

    def start(self) -> Tensor:
        """Clear the cache and return the logits of the first token, [B, 1, vocab]."""
        batch = len(self._encoded)
        self._cache = EncoderDecoderCache(DynamicCache(), self._cross_cache)
        self._step = 0
        self._steps = torch.empty(0, dtype=torch.int64, device=self._encoded.device)
        self._ancestors = self._encoded.new_empty(batch, 1, 0, dtype=torch.bool)
        first = torch.full((batch, 1), self._network.config.decoder_start_token_id, device=self._encoded.device)
        return self(torch.zeros_like(first), first)

    def __call__(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits [B, N, vocab] after N prefixes.

        Args:
            parents: index of the prefix of the last call that each prefix continues, int64 [B, N].
            tokens: last token of each prefix, int64 [B, N].
        """
        batch, count = tokens.shape
        itself = torch.eye(count, dtype=torch.bool, device=tokens.device).expand(batch, -1, -1)
        self._ancestors = torch.cat([take_rows(self._ancestors, parents), itself], -1)
        self._steps = torch.cat([self._steps, torch.full_like(tokens[0], self._step)])
        mask = additive_mask(self._ancestors[:, None], self._encoded.dtype)
        # The mask is added to the bias too, as some versions of transformers ignore it if a bias is given.
        bias = self._bias[:, self._step, self._steps][None, :, None] + mask
        self._step += 1
        return self._forward(tokens, mask, bias)

    def _forward(self, tokens: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
        decoder, config = self._network.decoder, self._network.config
        states = decoder.embed_tokens(tokens)
        for block in decoder.block:
            states = block(
                states, attention_mask=mask, position_bias=bias, encoder_hidden_states=self._encoded,
                encoder_attention_mask=self._source, encoder_decoder_position_bias=self._source,
                **{cache_name(block.forward): self._cache}, use_cache=True,
            )[0]  # fmt: skip
        states = decoder.final_layer_norm(states)
        return self._network.lm_head(states * config.d_model**-0.5 if config.scale_decoder_outputs else states)
