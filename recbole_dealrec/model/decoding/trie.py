"""Trie of the catalogue's titles or semantic IDs, which confines what a model writes, as GENRE does for names of
entities (arXiv 2010.00904)."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor


def _to_rows(sequences: Sequence[Sequence[int]], vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences as rows [M, S], -1 behind their end, and their lengths [M]."""
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    if not lengths.size or not lengths.min():
        raise ValueError("a trie needs at least one sequence, and every sequence at least its end token")
    tokens = np.fromiter(chain.from_iterable(sequences), dtype=np.int64, count=lengths.sum())
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(f"token ids have to lie in [0, {vocab_size}), found {tokens.min()} to {tokens.max()}")
    last = tokens[lengths.cumsum() - 1]
    alike = (lengths == lengths[0]).all()
    if not alike and ((last != last[0]).any() or (tokens == last[0]).sum() != len(last)):
        raise ValueError("sequences of different lengths have to end with the same token, and to hold it nowhere else")
    rows = np.full((lengths.size, lengths.max()), -1, dtype=np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = tokens
    return rows, lengths


def _link(rows: np.ndarray, lengths: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted edge keys of the trie, and the node each row ends in. Edge i leads to node i + 1; node 0 is the root."""
    nodes = np.zeros(len(rows), dtype=np.int64)
    levels, size = [], 0
    for level in range(rows.shape[1]):
        live = lengths > level
        edges, edge_of_row = np.unique(nodes[live] * vocab_size + rows[live, level], return_inverse=True)
        nodes[live] = size + edge_of_row + 1
        levels.append(edges)
        size += len(edges)
    return np.concatenate(levels), nodes


class TokenTrie:
    """Prefix tree of token sequences none of which begins another one, held in tensors.

    Nodes are integers: 0 is the root, ``dead`` the state of everything that is no prefix of a sequence.

    Args:
        sequences: token ids of each item, all of one length or all ending with the same end token, which occurs nowhere
            else. Equal sequences are allowed.
        vocab_size: width of the model's logits.

    Attributes:
        end_token: token that all sequences end with, None where their ends differ.
        depth: length of the longest sequence.

    Raises:
        ValueError: no or an empty sequence, a token outside the vocabulary, lengths that differ without an end token.
    """

    root = 0

    def __init__(self, sequences: Sequence[Sequence[int]], vocab_size: int) -> None:
        rows, lengths = _to_rows(sequences, vocab_size)
        keys, ends = _link(rows, lengths, vocab_size)
        last = rows[np.arange(len(rows)), lengths - 1]
        self.end_token = int(last[0]) if (last == last[0]).all() else None
        self.vocab_size, self.depth, self.dead = vocab_size, rows.shape[1], len(keys) + 1
        leaf = np.full(self.dead + 1, -1, dtype=np.int64)
        leaves, first_row = np.unique(ends, return_index=True)
        leaf[leaves] = first_row
        self._keys, self._leaf = torch.from_numpy(keys), torch.from_numpy(leaf)
        # Edges of node n are those in [first[n], first[n + 1]).
        self._first = torch.searchsorted(self._keys, torch.arange(self.dead + 2) * vocab_size)

    def to(self, device: torch.device | str) -> "TokenTrie":
        """Move the tensors to a device; returns the trie itself."""
        self._keys, self._leaf, self._first = (x.to(device) for x in (self._keys, self._leaf, self._first))
        return self

    def step(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """Node (int64) each node (int64, any shape) leads to by a token (int64, same shape), or ``dead``."""
        keys = nodes * self.vocab_size + tokens
        edges = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        known = (self._keys[edges] == keys) & (tokens >= 0) & (tokens < self.vocab_size)
        return torch.where(known, edges + 1, self.dead)

    def successors(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Edges out of nodes (int64, any shape), C being the most edges of one of them, at least 1.

        Returns:
            tokens (int64), nodes they lead to (int64) and which of them exist (bool), each of shape [*nodes.shape, C].
        """
        first = self._first[nodes].unsqueeze(-1)
        count = self._first[nodes + 1].unsqueeze(-1) - first
        offsets = torch.arange(max(1, int(count.max())), device=nodes.device)
        exists = offsets < count
        edges = torch.where(exists, first + offsets, 0)
        return self._keys[edges] % self.vocab_size, edges + 1, exists

    def edges(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All edges out of nodes (int64 [N]), in their order: index of the node, token, node behind; int64 [E] each."""
        tokens, children, exists = self.successors(nodes)
        parents, places = exists.nonzero(as_tuple=True)
        return parents, tokens[parents, places], children[parents, places]

    def leaf(self, nodes: Tensor) -> Tensor:
        """Index (int64) of the first sequence that ends in each node, -1 where none does."""
        return self._leaf[nodes]
