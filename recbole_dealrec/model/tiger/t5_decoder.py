"""Decoding many prefixes of short sequences side by side with a T5."""

import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache


class PrefixDecoder:
    """Decodes the prefixes of a query as tokens of one sequence, each masked to its own ancestors.

    So the encoder runs once, its keys and values are shared by all prefixes of a query, and the cache is only ever
    appended to. The relative position bias follows the length of a prefix, not its place among the others.

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
        self._source = self._hidden(attention_mask.bool()[:, None, None])
        self._crossed = DynamicCache()
        attention = network.decoder.block[0].layer[0].SelfAttention
        self._bias = attention.compute_bias(depth, depth)[0]  # [heads, length of a prefix, length of its ancestor]

    def start(self) -> Tensor:
        """Logits of the first token, [B, 1, vocab]; whatever was decoded before is forgotten."""
        batch = len(self._encoded)
        self._cache = EncoderDecoderCache(DynamicCache(), self._crossed)
        self._step = 0
        self._steps = torch.empty(0, dtype=torch.int64, device=self._encoded.device)
        self._ancestors = self._encoded.new_empty(batch, 1, 0, dtype=torch.bool)
        first = torch.full((batch, 1), self._network.config.decoder_start_token_id, device=self._encoded.device)
        return self(torch.zeros_like(first), first)

    def __call__(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Logits [B, N, vocab] behind N prefixes.

        Args:
            parents: which prefix of the call before each prefix continues, int64 [B, N].
            tokens: the token it goes on with, int64 [B, N].
        """
        batch, count = tokens.shape
        ancestors = self._ancestors.gather(1, parents.unsqueeze(-1).expand(-1, -1, self._ancestors.shape[-1]))
        itself = torch.eye(count, dtype=torch.bool, device=tokens.device).expand(batch, -1, -1)
        self._ancestors = torch.cat([ancestors, itself], -1)
        self._steps = torch.cat([self._steps, torch.full_like(tokens[0], self._step)])
        mask = self._hidden(self._ancestors[:, None])
        # The mask stands in the bias too: some versions of the library ignore it where a bias is given.
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
                past_key_values=self._cache, use_cache=True,
            )[0]  # fmt: skip
        states = decoder.final_layer_norm(states)
        return self._network.lm_head(states * config.d_model**-0.5 if config.scale_decoder_outputs else states)

    def _hidden(self, visible: Tensor) -> Tensor:
        """What is added to attention scores: 0 where a key is visible, else the lowest number."""
        scores = torch.zeros(visible.shape, dtype=self._encoded.dtype, device=visible.device)
        return scores.masked_fill_(~visible, torch.finfo(scores.dtype).min)
