"""The exponents of the re-weighting, chosen on the validation part."""

from collections.abc import Iterator
from itertools import product
from logging import getLogger

from recbole.model.abstract_recommender import SequentialRecommender

from recbole_dealrec.config import Config
from recbole_dealrec.data import QueryDataLoader, Splits
from recbole_dealrec.data.catalogue import Catalogue
from recbole_dealrec.model.reweighting import Reweighting, ranks_histories, reweighted
from recbole_dealrec.store.opening import synchronize
from recbole_dealrec.store.step import is_due, step
from recbole_dealrec.training.collector import JoinedCollector
from recbole_dealrec.training.llm_trainer import LLMTrainer
from recbole_dealrec.training.query_evaluator import QueryEvaluator, headline_metric

REWEIGHTING = "reweighting"  # the step and its output
_GRID = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


def chosen_reweighting(trainer: LLMTrainer, splits: Splits, surrogates: list[SequentialRecommender]) -> Reweighting:
    """Return the re-weighting of a run; its exponents are as configured, or the best on the validation part.

    Args:
        trainer: trainer of the run, whose folder has the fine-tuned weights and keeps the re-weighting.
        splits: training, validation and test parts.
        surrogates: trained surrogates of the run.
    """
    config, folder = trainer.config, trainer.folder
    if not is_due(folder, REWEIGHTING, REWEIGHTING):
        return Reweighting.restored(config, Catalogue.of(splits.train), folder / REWEIGHTING)
    usable = [surrogate for surrogate in surrogates if ranks_histories(surrogate)]
    if config["grounding_collaborative"] != 0 and surrogates and not usable:
        getLogger().warning("re-weighting: the surrogates need a user to rank items, so they are not used")
    reweighting = Reweighting(splits.train.item_counts, usable)
    trainer.load(folder / trainer.name)
    with step(folder, REWEIGHTING):
        choose_exponents(trainer, reweighting, QueryDataLoader(config, splits.for_tuning.valid, n_queries(config)))
    with folder.output(REWEIGHTING) as path:
        reweighting.save(path)
    synchronize(folder)
    return reweighting


def n_queries(config: Config) -> int:
    """Return how many validation queries are used to choose exponents, 0 for all: ``n_valid``, at most ``n_test``."""
    return min(filter(None, (config["n_valid"], config["n_test"])), default=0)


def choose_exponents(trainer: LLMTrainer, reweighting: Reweighting, queries: QueryDataLoader) -> None:
    """Set the exponents of ``reweighting``: the given ones, and for the others the best on the queries.

    One pass ranks the queries; every pair of exponents re-weights the same scores. The best pair has the highest
    ``headline_metric`` and, among equal pairs, the smallest sum; without such a metric there is no re-weighting.
    Surrogates with exponent 0 are dropped.

    Args:
        trainer: has the fine-tuned model.
        reweighting: its exponents are replaced.
        queries: validation queries.
    """
    config = trainer.config
    metric = headline_metric(config)
    pairs = sorted(product(*_candidates(config, reweighting)), key=sum)
    if len(pairs) > 1 and metric:
        collectors = {pair: JoinedCollector(config) for pair in pairs}
        for scores, interaction, positives in trainer.rankings(queries):
            factors = reweighting.factors(scores, interaction)
            for pair, collector in collectors.items():
                collector.eval_batch_collect(reweighted(scores, *factors, *pair), interaction, *positives)
        judge = QueryEvaluator(config).metric_class[metric.partition("@")[0]]
        found = {pair: judge.calculate_metric(each.get_data_struct())[metric] for pair, each in collectors.items()}
        pairs = [max(found, key=found.get)]
        getLogger().info(
            f"re-weighting: exponents {pairs[0][0]:g} for popularity and {pairs[0][1]:g} for the surrogates' scores "
            f"give the best validation {metric}, {found[pairs[0]]:.4f}; "
            f"without re-weighting {found.get((0.0, 0.0), float('nan')):.4f}"
        )
    reweighting.popularity, reweighting.collaborative = pairs[0]
    if reweighting.collaborative and not reweighting.surrogates:
        getLogger().warning("grounding_collaborative: this run has no surrogate to re-weight with, so it has no effect")
    if not reweighting.collaborative:
        reweighting.surrogates = []


def _candidates(config: Config, reweighting: Reweighting) -> Iterator[tuple[float, ...]]:
    for key, possible in (("grounding_popularity", True), ("grounding_collaborative", bool(reweighting.surrogates))):
        yield (_GRID if possible else (0.0,)) if config[key] == "auto" else (float(config[key]),)
