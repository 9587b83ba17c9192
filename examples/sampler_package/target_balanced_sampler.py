"""After ``pip install ./examples/sampler_package``: python run_recbole_dealrec.py --sampler=TargetBalanced"""

import numpy as np
import pandas as pd

from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.sampler import FewShotSampler


class TargetBalanced(FewShotSampler):
    """As many different targets as there can be: each gives one sample, drawn by ``seed``, before any gives a second.

    ``scores.csv`` then tells the turn that each candidate would have come in.
    """

    def sample(self, samples: CandidateSamples) -> np.ndarray:
        drawn = np.random.default_rng(self.config["seed"]).permutation(len(samples))
        turn = pd.Series(drawn).groupby(samples.item_id[drawn]).cumcount().to_numpy()
        order = drawn[np.argsort(turn, kind="stable")]
        self.columns["turn"] = turn[np.argsort(drawn)]
        return np.sort(order[: self.config["n_fewshot"]])
