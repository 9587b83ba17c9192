"""Trie of the catalogue's titles or semantic IDs that constrains decoding, as in GENRE (arXiv 2010.00904)."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor


def _to_rows(sequences: Sequence[Sequence[int]], vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sequences as rows [M, S], padded with -1 on the right, and their lengths [M]."""
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    if not lengths.size or not lengths.min():
        raise ValueError("a trie needs at least one sequence, and every sequence at least its end token")
    tokens = np.fromiter(chain.from_iterable(sequences), dtype=np.int64, count=lengths.sum())
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(f"token ids have to be in [0, {vocab_size}), found {tokens.min()} to {tokens.max()}")
    last = tokens[lengths.cumsum() - 1]
    if (lengths != lengths[0]).any() and ((last != last[0]).any() or (tokens == last[0]).sum() != len(last)):
        raise ValueError("sequences of different lengths have to end with the same token and contain it nowhere else")
    rows = np.full((lengths.size, lengths.max()), -1, dtype=np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = tokens
    return rows, lengths


def _edges_and_ends(rows: np.ndarray, lengths: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted keys of all edges and the last node of each row; edge i leads to node i + 1, 0 is the root."""
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
    """Prefix tree of token sequences, stored in tensors; no sequence may be a prefix of another.

    Nodes are integers: 0 is the root, ``dead`` represents all token sequences outside the trie.

    Args:
        sequences: token ids of each item, all of the same length or all with an end token that occurs nowhere else.
            Equal sequences are allowed.
        vocab_size: number of logits of the model.

    Attributes:
        end_token: last token of all sequences, None if the last tokens differ.
        depth: length of the longest sequence.

    Raises:
        ValueError: there is no sequence or an empty one, a token is outside the vocabulary, or sequences of different
            lengths have no common end token.
    """

    root = 0

    def __init__(self, sequences: Sequence[Sequence[int]], vocab_size: int) -> None:
        rows, lengths = _to_rows(sequences, vocab_size)
        keys, ends = _edges_and_ends(rows, lengths, vocab_size)
        last = rows[np.arange(len(rows)), lengths - 1]
        self.end_token = int(last[0]) if (last == last[0]).all() else None
        self.vocab_size, self.depth, self.dead = vocab_size, rows.shape[1], len(keys) + 1
        leaf = np.full(self.dead + 1, -1, dtype=np.int64)
        leaves, first_row = np.unique(ends, return_index=True)
        leaf[leaves] = first_row
        self._keys, self._leaf = torch.from_numpy(keys), torch.from_numpy(leaf)
        # Node n has the edges first[n] to first[n + 1] - 1.
        self._first = torch.searchsorted(self._keys, torch.arange(self.dead + 2) * vocab_size)

    def to(self, device: torch.device | str) -> "TokenTrie":
        """Move the tensors to a device and return the trie."""
        self._keys, self._leaf, self._first = (x.to(device) for x in (self._keys, self._leaf, self._first))
        return self

    def step(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """Return the child of each node by a token, or ``dead``; all int64 of the same shape."""
        keys = nodes * self.vocab_size + tokens
        edges = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        known = (self._keys[edges] == keys) & (tokens >= 0) & (tokens < self.vocab_size)
        return torch.where(known, edges + 1, self.dead)

    def successors(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the edges of nodes (int64, any shape), padded to the largest number C of edges of a node, at least 1.

        Returns:
            Tokens (int64), children (int64) and whether the edge exists (bool), each of shape [*nodes.shape, C].
        """
        first = self._first[nodes].unsqueeze(-1)
        count = self._first[nodes + 1].unsqueeze(-1) - first
        offsets = torch.arange(max(1, int(count.max())), device=nodes.device)
        exists = offsets < count
        edges = torch.where(exists, first + offsets, 0)
        return self._keys[edges] % self.vocab_size, edges + 1, exists

    def edges(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return all edges of nodes (int64 [N]) in order: index of the node, token and child, int64 [E] each."""
        tokens, children, exists = self.successors(nodes)
        parents, places = exists.nonzero(as_tuple=True)
        return parents, tokens[parents, places], children[parents, places]

    def leaf(self, nodes: Tensor) -> Tensor:
        """Return the index of the first sequence that ends in each node, -1 if none does; int64."""
        return self._leaf[nodes]
