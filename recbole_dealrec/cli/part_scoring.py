"""Seconds of scores, measured on a batch of the candidates."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recbole_dealrec.cli.part import lengths_of, new_folder, seconds_of, timed, typical
from recbole_dealrec.config import Config
from recbole_dealrec.data import CandidateSamples, Splits
from recbole_dealrec.model.surrogate.surrogate import build_surrogate, surrogate_batches
from recbole_dealrec.pipeline import Job
from recbole_dealrec.scorer.less import WARM_UP_SAMPLES
from recbole_dealrec.scorer.partial_effort import part_size
from recbole_dealrec.scorer.representation import most_valid
from recbole_dealrec.scorer.scorer import MADE, SURROGATES, Scorer, ScorerInputs, get_scorer
from recbole_dealrec.scorer.scoring import needs_llm
from recbole_dealrec.scorer.warm_up import EPOCHS

_POOL = 512  # candidates that a batch is taken from


class PartScoring:
    """Scores of a batch of candidates, each computed as in a run.

    Args:
        job: the run.
        config: its shortened configuration.
        folder: temporary folder.

    Attributes:
        surrogate: the surrogate, with random weights at first.
        llm: the recommender before fine-tuning; None until the caller sets it.
        pools: candidates of about the mean length, as the surrogate and as the recommender read them.
        scores: the scores computed so far, by name.
    """

    def __init__(self, job: Job, config: Config, folder: Path) -> None:
        self.run, self.splits, self.n, self.config = job.config, job.splits.for_selection, len(job.samples), config
        surrogate_config, lengths = config.surrogate(), job.samples.item_length
        self.surrogate = build_surrogate(surrogate_config, job.splits.train)
        self.llm: Any = None
        self.pools = [job.samples[typical(lengths, _POOL, reader)] for reader in (surrogate_config, config)]
        self.scores: dict[str, np.ndarray] = {}
        self._folder = partial(new_folder, folder)

    def seconds(self, name: str) -> float:
        """Return the seconds to score all candidates; for a score that follows a training, those of one evaluation."""
        run, of_llm = self.run, needs_llm(self.config, name)
        pool = self.pools[of_llm]
        batches = self.llm.batches(pool) if of_llm else surrogate_batches(self.surrogate, pool, self.config)
        batches = [rows for rows, _ in batches]
        rows = batches[len(batches) // 2]
        scored = run["n_surrogates"] if SURROGATES in get_scorer(name).needed(self.config) else 1
        if name == "influence":
            return scored * self._influence_seconds(pool[rows[:2]], pool[rows])
        # Validation samples that each candidate is compared with, and those whose mean it is compared with.
        goals, averaged = (min(most_valid(count), len(self.splits.valid)) for count in (self.n, 1))
        # The warm-up of LESS trains on the batch, whose scoring is a pass of EPOCHS + 2.
        warm_up = EPOCHS * min(self.n, WARM_UP_SAMPLES)
        shares = {
            "effort": part_size(self.n, run["effort_sample_ratio"]), "gradient_similarity": averaged,
            "less": (self.n + goals + warm_up) / (EPOCHS + 2),
        }  # fmt: skip
        shares |= dict.fromkeys(("valid_distance", "valid_similarity"), (self.n + goals) / 2)
        seconds = timed(lambda rows: self._score(name, self._scorer(name, pool[rows]), pool[rows]), rows)
        return scored * seconds * shares.get(name, self.n) / len(rows)

    def tiled(self, name: str, count: int) -> np.ndarray:
        """Return ``count`` rows that resemble those of a score, no two of them equal."""
        values = self.scores[name]
        rows = np.resize(values, (count, *values.shape[1:]))
        return (rows * (1 + 1e-3 * np.random.default_rng(0).standard_normal(rows.shape))).astype(values.dtype)

    def _influence_seconds(self, few: CandidateSamples, samples: CandidateSamples) -> float:
        """Return the seconds of one surrogate: a pass for the gradient, a pass for the scores, and the solve."""
        run, count = self.run, len(samples)
        self._score("influence", self._scorer("influence", few), few)
        scorer = self._scorer("influence", samples)
        first, again = (seconds_of(lambda: self._score("influence", scorer, samples)) for _ in range(2))
        solve = max(0.0, first - 2 * again)  # the second time the solution is reused
        if run["hessian_solver"] == "lissa":
            solve *= run["lissa_depth"] * run["lissa_repeats"] / self.config["lissa_depth"]
        else:
            solve *= min(run["hessian_samples"] or self.n, self.n) / min(self.config["hessian_samples"], count)
        risk = len(self.splits.valid) if run["influence_on"] == "valid" else self.n
        return again * (self.n + risk) / count + solve

    def _score(self, name: str, scorer: Scorer, samples: CandidateSamples) -> None:
        self.scores[name] = scorer.score(samples)

    def _scorer(self, name: str, samples: CandidateSamples) -> Scorer:
        kind, valid = get_scorer(name), self.splits.valid
        few = valid.copy(valid.inter_feat[typical(lengths_of(valid), len(samples), self.config)])
        others = {need: self.tiled(need, len(samples)) for need in kind.needed(self.config) if need not in MADE}
        inputs = ScorerInputs(
            self.config, Splits(self.splits.train, few, self.splits.test), self._folder(), self._folder().path,
            lambda watch: watch(self.surrogate), [self.surrogate], self.llm, others,
        )  # fmt: skip
        return kind.from_inputs(inputs)
