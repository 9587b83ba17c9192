"""Generated candidate samples and scores, of which a test needs hundreds in milliseconds."""

from collections.abc import Iterable

import numpy as np
from scipy.spatial.distance import cdist

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.scorer import TargetFrequencyScorer

_ITEMS, _LONGEST, _WIDTH, _GOALS = 90, 20, 8, 30


def generated_samples(n: int, seed: int = 0) -> CandidateSamples:
    """Return ``n`` candidate samples, one of each user, with times; some items are targets far more often than others.

    Args:
        n: number of samples.
        seed: seed of histories, targets and times.
    """
    random = np.random.default_rng(seed)
    length = random.integers(1, _LONGEST + 1, n)
    histories = random.integers(1, _ITEMS + 1, (n, _LONGEST))
    histories[np.arange(_LONGEST) >= length[:, None]] = 0
    titles = ["[PAD]", *(f"Title {item}" for item in range(1, _ITEMS + 1))]
    return CandidateSamples(
        np.arange(1, n + 1), _targets(random, n), histories, length, titles, np.arange(n), random.permutation(n)
    )


def generated_scores(samples: CandidateSamples, names: Iterable[str], seed: int = 0) -> dict[str, np.ndarray]:
    """Return scores by name, of the shape, type and range that a run gives them.

    A score that is not this package's is a number for each sample, normally distributed.

    Args:
        samples: candidate samples.
        names: names of the scores.
        seed: seed of all values.
    """
    n, random = len(samples), np.random.default_rng(seed)
    points, goals = (random.normal(size=(count, _WIDTH)) for count in (n, _GOALS))
    scores = {
        "influence": random.normal(size=n),
        "effort": random.gamma(2, size=n),
        "grand": random.gamma(2, size=n),
        "el2n": random.uniform(0, np.sqrt(2), n),
        "llm_loss": random.gamma(4, size=n),
        "target_frequency": TargetFrequencyScorer(_targets(random, n)).score(samples),
        "loss_trajectory": random.gamma(2, size=(n, 5)).astype(np.float32),
        "surrogate_representation": random.normal(size=(n, _WIDTH)).astype(np.float32),
        "llm_representation": points.astype(np.float32),
        "valid_distance": cdist(points, goals).astype(np.float32),
        "llm_gradient": random.normal(size=(n, _WIDTH)).astype(np.float32),
        "less": random.uniform(-1, 1, (n, _GOALS)).astype(np.float32),
        "valid_similarity": 1 - cdist(points, goals, "cosine").astype(np.float32),
    }
    return {name: scores[name] if name in scores else random.normal(size=n) for name in names}


def _targets(random: np.random.Generator, n: int) -> np.ndarray:
    """Draw targets, int64 [n], whose frequencies fall as the inverse of the item's id."""
    weight = 1 / np.arange(1, _ITEMS + 1)
    return random.choice(np.arange(1, _ITEMS + 1), n, p=weight / weight.sum())
