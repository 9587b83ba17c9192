"""Models: surrogates, language models, and the recommenders built on them."""

from recbole_dealrec.model.bigrec import BIGRec
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.model.tiger import TIGER

MODELS: dict[str, type[LLMRecommender]] = {"BIGRec": BIGRec, "TIGER": TIGER}

__all__ = ["MODELS", "TIGER", "BIGRec", "LLMRecommender"]
