"""Models: surrogates, language models, and the recommenders built on them."""

from recbole_dealrec.config.registry import MODELS
from recbole_dealrec.model.bigrec.bigrec import BIGRec
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.model.tiger.tiger import TIGER

__all__ = ["MODELS", "TIGER", "BIGRec", "LLMRecommender"]
