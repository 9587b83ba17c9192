"""Runs on several processes: their launch, their collectives, and a model sharded over them."""
