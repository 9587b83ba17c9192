"""GORACS: select the candidates that are closest to the validation samples in optimal transport."""

import numpy as np

from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.errors import InputError
from recbole_dealrec.sampler.facility import chunks, cover_greedily
from recbole_dealrec.sampler.few_shot import FewShotSampler, finite_rows, register_sampler

_MOST_SWAPS = 100  # as in the released code
_MOST_TRIALS = 30  # transports solved for a swap; 900 (released code) take 18 times as long, for 1 to 2 % less cost


@register_sampler("GORACS")
class GORACSSampler(FewShotSampler):
    """Optimal-transport coreset by greedy choice and swaps (GORACS, KDD 2025, and its released code).

    Moving a candidate to a validation sample costs their distance minus ``effort_weight`` times the candidate's
    gradient norm, each as a share of its maximum. The objective is the exact transport distance between the uniform
    distributions on the chosen and on the validation samples. Facility location gives a first subset; then chosen
    samples are replaced by others while that lowers the objective.

    The distances are the scores ``valid_distance``, the gradient norms ``effort``. There are two differences from the
    publication: samples are represented by the language model itself, not by a second encoder; and once each validation
    sample has its nearest candidate, the greedy choice covers them again, while the authors add arbitrary candidates.
    The selection depends on the validation part, including its targets. Memory: twice the distances.

    Raises:
        InputError: POT, which solves the transport problem, is not installed.
    """

    needs = ("effort", "valid_distance")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        try:
            import ot  # noqa: F401
        except ImportError as error:
            raise InputError('sampler GORACS needs POT: pip install -e ".[goracs]" in the checkout') from error

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        effort, distance = self.scores["effort"], self.scores["valid_distance"]
        self.columns = {"effort": effort}
        finite = np.isfinite(effort) & np.isfinite(distance).all(axis=1)
        kept = finite_rows(finite, self.config["n_fewshot"])
        if len(kept) < len(finite):
            distance, effort = distance[kept], effort[kept]
        cost = transport_cost(distance, effort, self.config["effort_weight"])
        return np.sort(kept[improve_by_swaps(cost, cover_greedily(cost, self.config["n_fewshot"]))])


def transport_cost(distance: np.ndarray, effort: np.ndarray, effort_weight: float) -> np.ndarray:
    """Return the cost of each candidate for each validation sample, in [0, 1]; [n, m], dtype as ``distance``.

    Args:
        distance: [n, m].
        effort: gradient norms [n].
        effort_weight: lambda.
    """
    cost = distance / (distance.max() or 1.0)
    cost -= (effort_weight * effort / (effort.max() or 1.0)).astype(cost.dtype)[:, None]
    cost -= cost.min()
    cost /= cost.max() or 1.0
    return cost


def transport_distance(cost: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the exact transport distance between uniform distributions, and its dual potentials.

    Args:
        cost: [k, m].

    Returns:
        The distance, and potentials f [k] and g [m]: f_i + g_j <= cost_ij, and mean(f) + mean(g) is the distance.
    """
    import ot

    sources, targets = (np.full(size, 1 / size) for size in cost.shape)
    value, log = ot.emd2(sources, targets, cost.astype(np.float64), numItermax=1_000_000, log=True)
    return float(value), log["u"], log["v"]


def improve_by_swaps(cost: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Replace chosen rows by others while that lowers ``transport_distance``; return int64 [k].

    With the columns' potentials g fixed, row e has the potential min_j (cost_ej - g_j), so replacing row i by e changes
    the distance by at least (min_j (cost_ej - g_j) - f_i) / k. The pairs with the lowest bounds are tried.
    """
    value, f, g = transport_distance(cost[chosen])
    for _ in range(_MOST_SWAPS):
        for place, row in _promising_swaps(cost, chosen, f, g):
            trial = chosen.copy()
            trial[place] = row
            found = transport_distance(cost[trial])
            if found[0] < value:
                chosen, (value, f, g) = trial, found
                break
        else:
            break
    return chosen


def _promising_swaps(cost: np.ndarray, chosen: np.ndarray, f: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Return pairs (place in ``chosen``, new row) that may lower the distance, lowest bound first; int64 [p, 2]."""
    potential = np.concatenate([(cost[rows] - g).min(axis=1) for rows in chunks(np.arange(len(cost)))])
    potential[chosen] = np.inf
    rows, places = np.argsort(potential)[:_MOST_TRIALS], np.argsort(-f)[:_MOST_TRIALS]
    change = potential[rows] - f[places, None]
    order = np.argsort(change, axis=None)[:_MOST_TRIALS]
    place, row = np.unravel_index(order[change.flat[order] < 0], change.shape)
    return np.column_stack([places[place], rows[row]])
