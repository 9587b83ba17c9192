"""After ``pip install ./examples/sampler_package``: python run_recbole_dealrec.py --sampler=TargetBalanced"""

import numpy as np
import pandas as pd

from recbole_dealrec.config import COUNT, Key
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.sampler import FewShotSampler, register_sampler

KEYS = [Key("samples_per_turn", COUNT, default=1, comment="Samples that a target gives before the next gives any.")]


@register_sampler("TargetBalanced", keys=KEYS)
class TargetBalanced(FewShotSampler):
    """As many different targets as there can be: each gives a sample, drawn by the seed, before any gives a second.

    With ``samples_per_turn``, each gives so many before any gives more. ``scores.csv`` then tells the turn that each
    candidate would have come in.
    """

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        drawn = np.random.default_rng(self.config["seed"]).permutation(len(samples))
        place = pd.Series(drawn).groupby(samples.item_id[drawn]).cumcount().to_numpy()
        turn = place // self.config["samples_per_turn"]
        order = drawn[np.argsort(turn, kind="stable")]
        self.columns["turn"] = turn[np.argsort(drawn)]
        return np.sort(order[: self.config["n_fewshot"]])
