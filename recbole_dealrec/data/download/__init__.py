"""Datasets from the network: which there are, their archives and the transfer."""
