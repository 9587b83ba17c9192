"""Decoding: beams that are confined to what the catalogue has."""
