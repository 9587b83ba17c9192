"""BIGRec: a causal language model that writes titles, and what it is made from."""
