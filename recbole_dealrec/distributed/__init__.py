"""Several processes that do one run: how they start, what they exchange, and one model in shards on all of them."""
