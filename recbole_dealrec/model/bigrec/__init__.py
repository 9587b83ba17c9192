"""BIGRec: a causal language model that generates titles."""
