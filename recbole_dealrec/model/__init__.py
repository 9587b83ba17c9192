"""Models: surrogates, language models, and the recommenders built on them."""

from recbole_dealrec.config.registry import MODELS
from recbole_dealrec.model.bigrec.bigrec import BIGRec
from recbole_dealrec.model.recommender import LLMRecommender
from recbole_dealrec.model.tiger.tiger import TIGER

for _model in (BIGRec, TIGER):
    MODELS.register(_model.__name__)(_model)

__all__ = ["MODELS", "TIGER", "BIGRec", "LLMRecommender"]
