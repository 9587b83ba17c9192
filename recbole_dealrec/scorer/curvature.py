"""Products with the curvature of a surrogate's loss."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.scorer import solver
from recbole_dealrec.scorer.problem import LossBatch, Problem
from recbole_dealrec.store.console import progress_bar


class Curvature:
    """Products with the Hessian or Gauss-Newton matrix of the mean loss of some samples."""

    def __init__(self, problem: Problem, samples: CandidateSamples, progress: tqdm | None = None) -> None:
        self.problem, self.samples = problem, samples
        self.progress = progress_bar(shown=False) if progress is None else progress
        self.batches = [batch for _, batch in problem.batches(samples)]
        products = {"hessian": problem.hessian_product, "gauss_newton": problem.gauss_newton_product}
        self._product = products[problem.config["curvature"]]

    def product(self, vector: Tensor) -> Tensor:
        """Compute the curvature of the mean loss times a flat vector."""
        return self._sum_products(self.batches, vector) / len(self.samples)

    def single_sample_product(self) -> solver.MatVec:
        """Return a function that multiplies by the curvature of one sample, drawn at random at each call."""
        draws = np.random.default_rng(self.problem.config["seed"])

        def product(vector: Tensor) -> Tensor:
            self.progress.update()
            drawn = self.samples[draws.integers(len(self.samples), size=1)]
            ((_, batch),) = self.problem.batches(drawn)
            return self._product(batch, self.problem.unravel(vector))

        return product

    def sampling_error(self, x: Tensor, damping: float) -> float:
        """Estimate the relative standard error of (H + delta I) x due to sampling H, from two interleaved halves."""
        if len(self.samples) < 2:
            return 0.0
        halves = []
        for start in (0, 1):
            part = self.samples[np.arange(start, len(self.samples), 2)]
            batches = (batch for _, batch in self.problem.batches(part))
            halves.append(self._sum_products(batches, x) / len(part))
        mean = (halves[0] + halves[1]) / 2 + damping * x
        return float((halves[0] - halves[1]).norm() / (2 * mean.norm()))

    def _sum_products(self, batches: Iterable[LossBatch], vector: Tensor) -> Tensor:
        """Compute the curvature of the summed loss of the batches times a flat vector."""
        direction = self.problem.unravel(vector)
        total = torch.zeros_like(vector)
        self.progress.update()
        for batch in batches:
            total += self._product(batch, direction)
        return total
