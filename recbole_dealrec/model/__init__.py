"""Models: surrogates, language models, and the recommenders built on them."""

from recbole_dealrec.model.bigrec import BIGRec

MODELS = {"BIGRec": BIGRec}

__all__ = ["MODELS", "BIGRec"]
