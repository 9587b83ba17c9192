"""Decoding: beam search, confined to the catalogue by a trie."""
