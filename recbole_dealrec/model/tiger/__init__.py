"""TIGER: a T5 that generates semantic IDs of items."""
