"""TIGER: a T5 that writes semantic IDs of items."""
