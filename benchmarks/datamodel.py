"""Does a score predict what a language model learns from a sample? The linear datamodeling score.

    python benchmarks/datamodel.py --checkpoint_dir=FOLDER [--subsets 64] [--size 128] [--trainings 2] [--name NAME]

Random subsets of the candidates of ml-100k are drawn, and the language model before fine-tuning is tuned on each, for
EPOCHS without early stopping, several times with other seeds. The score of a subset is the sum of its samples' scores.
Reported are Spearman correlations of the subsets' scores with the fall of the validation loss and with the rise of
NDCG@10 on validation queries, means over the trainings. Half of the validation users, drawn once, are what scores see;
the outcomes are measured on the other half. The test part is not read. Any configuration key can follow, such as
--llm_path. Each training adds a row to benchmarks/results/<name>-runs.csv and is not done again while it is there; the
page is benchmarks/results/<name>.md.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import numpy as np
import pandas as pd
from recbole.utils import init_seed
from scipy.stats import rankdata, spearmanr

from recbole_dealrec.config.command_line import parse_command_line
from recbole_dealrec.data import CandidateSamples, QueryDataLoader, train_loader
from recbole_dealrec.pipeline import Job, configure, prepare
from recbole_dealrec.store.files import atomic_path
from recbole_dealrec.store.run_folder import RunFolder
from recbole_dealrec.training.llm_trainer import LLMTrainer

EPOCHS = 10
KEYS = {
    "show_progress": False, "epochs": EPOCHS, "selection_part": "user", "n_valid": 0, "topk": [10],
    "influence_on": "train",
}  # fmt: skip
FREE, POPULARITY, LENGTH = COSTLESS = "target frequency", "popularity of the target", "length of the history"
# Label, name of the score and further keys; a score for each of several queries is averaged over them.
SCORES = [
    ("influence, training part", "influence", {}),
    ("influence, validation part", "influence", {"influence_on": "valid"}),
    ("effort", "effort", {}),
    ("loss of the language model", "llm_loss", {}),
    ("error of the surrogate (EL2N)", "el2n", {}),
    ("gradient norm of the surrogate (GraNd)", "grand", {}),
    ("LESS", "less", {}),
    ("hidden-state similarity (RDS+)", "valid_similarity", {}),
    (FREE, "target_frequency", {}),
]
OUTCOMES = {"fall of the loss": "loss", "rise of NDCG@10": "ndcg@10"}
RESAMPLES = 2000
NOT_TUNED = -1  # number of the subset in the row of the model before fine-tuning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subsets", type=int, default=64)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--trainings", type=int, default=2)
    parser.add_argument("--name", default="datamodel")
    arguments, rest = parser.parse_known_args()
    keys = {**KEYS, **parse_command_line(rest)}
    scores = dict(candidate_scores(keys))
    job = job_of(keys)
    truth = Truth(job, common.RESULTS / f"{arguments.name}-runs.csv")
    subsets = drawn(len(job.samples), arguments.subsets, arguments.size)
    for training in range(arguments.trainings):
        for number, subset in [(NOT_TUNED, subsets[0])] * (training == 0) + list(enumerate(subsets)):
            truth.measure(number, training, subset)
        common.write(arguments.name, page(job, scores, subsets, truth.rows()))


def job_of(keys: dict[str, Any], dataset: str = "ml-100k") -> Job:
    (job,) = prepare([configure("BIGRec", dataset, None, keys)])
    return job


def candidate_scores(keys: dict[str, Any], dataset: str = "ml-100k") -> Iterator[tuple[str, np.ndarray]]:
    """Yield the label and the scores, float64 [n], of each of ``SCORES``, and of what costs nothing."""
    job = job_of(keys, dataset)
    scoring = job.scoring()  # its surrogates and language model serve all scores with these keys
    for label, name, further in SCORES:
        own = job_of({**keys, **further}, dataset).scoring() if further else scoring
        score = own.scores([name])[name].astype(np.float64)
        yield label, score.mean(axis=1) if score.ndim == 2 else score
    yield POPULARITY, job.splits.train.item_counts[job.samples.item_id].astype(np.float64)
    yield LENGTH, job.samples.item_length.astype(np.float64)


def drawn(n: int, count: int, size: int) -> np.ndarray:
    """Return random subsets, always the same; int64 [count, size]."""
    random = np.random.default_rng(0)
    return np.stack([np.sort(random.choice(n, size, replace=False)) for _ in range(count)])


class Truth:
    """What the language model has learnt from each subset, stored in a file.

    Args:
        job: the input of the trainings.
        file: table of the trainings so far.
    """

    def __init__(self, job: Job, file: Path) -> None:
        self.learn, self.file = Learning(job), file

    def rows(self) -> pd.DataFrame:
        """Return the trainings so far: ``subset``, ``training``, ``loss`` and ``ndcg@10``."""
        return pd.read_csv(self.file) if self.file.exists() else pd.DataFrame(columns=["subset", "training"])

    def measure(self, subset: int, training: int, indices: np.ndarray) -> None:
        """Tune on a subset and add its row, unless it exists."""
        rows = self.rows()
        if not ((rows["subset"] == subset) & (rows["training"] == training)).any():
            found = self.learn(indices if subset != NOT_TUNED else None, training)
            row = {"subset": subset, "training": training, **found}
            with atomic_path(self.file) as path:
                pd.concat([rows, pd.DataFrame([row])]).to_csv(path, index=False)


class Learning:
    """Trainings of the language model before fine-tuning on subsets of the candidates.

    Args:
        job: the input of the trainings.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.scoring = job, job.scoring()
        valid = job.splits.for_tuning.valid
        self.valid = CandidateSamples.from_dataset(valid)
        self.queries = QueryDataLoader(job.config, valid, job.config["n_valid"])

    def __call__(self, indices: np.ndarray | None, training: int) -> dict[str, float]:
        """Tune on candidates, int64 [k], or on none; return loss and NDCG@10 on the validation queries.

        Args:
            indices: candidates to tune on; None evaluates the model before fine-tuning.
            training: number of the training, which its seed is made of.
        """
        config, samples = self.job.config, self.job.samples
        with TemporaryDirectory() as folder:
            trainer = LLMTrainer(config, self.scoring.llm(RunFolder(Path(folder))), RunFolder(Path(folder)), "weights")
            init_seed(config["seed"] + training, config["reproducibility"])
            if indices is not None:
                data = train_loader(config, self.job.splits.train, samples.rows[indices])
                trainer.fit(data, verbose=False, saved=False, show_progress=False)
            losses = [trainer.model.batch_losses(batch).cpu() for _, batch in trainer.model.batches(self.valid)]
            found = trainer.evaluate(self.queries, load_best_model=False)
        return {"loss": float(np.concatenate(losses).mean()), "ndcg@10": float(found["ndcg@10"])}


def page(job: Job, scores: dict[str, np.ndarray], subsets: np.ndarray, rows: pd.DataFrame) -> str:
    tuned = rows[rows["subset"] != NOT_TUNED]
    before = rows.set_index("subset").loc[NOT_TUNED]
    truth = {
        outcome: (before[column] - tuned.pivot(index="subset", columns="training", values=column))
        * (1 if column == "loss" else -1)
        for outcome, column in OUTCOMES.items()
    }
    free = scores[FREE][subsets].sum(axis=1)
    cells = [
        [label, *(cell for fall in truth.values() for cell in agreement(score[subsets].sum(axis=1), fall, free))]
        for label, score in scores.items()
    ]
    columns = [f"{outcome}{part}" for outcome in OUTCOMES for part in ("", ", target frequency held")]
    means = [[outcome, common.spread(fall.mean(axis=1), 5), repeated(fall)] for outcome, fall in truth.items()]
    config = job.config
    return f"""# Does a score predict what the language model learns?

{common.header()}.
{len(subsets)} random subsets of {subsets.shape[1]} of the {len(job.samples):,} candidates of {config["dataset"]}, each
learnt {tuned["training"].nunique()} times in {config["epochs"]} epochs; `llm_path: {Path(config["llm_path"]).name}`.
Spearman correlation of the sum of a score over a subset with what the subset brought, mean of its trainings, on
validation queries that no score saw; in brackets the 95 % interval of {RESAMPLES:,} bootstrap samples of subsets.
"Target frequency held" is the partial rank correlation, given the sum of the target frequencies, which cost nothing.

{common.table(["score", *columns], cells)}

{common.table(["outcome", "mean and deviation over subsets", "Spearman between trainings"], means)}

The last column is how well one training of a subset predicts another; no score can predict a single training much
better than its root allows.
"""


def agreement(score: np.ndarray | pd.Series, fall: pd.DataFrame, free: np.ndarray) -> list[str]:
    """Return the Spearman correlation of subsets' scores with an outcome, and the partial one, with intervals."""
    score, outcome = np.asarray(score), fall.mean(axis=1).to_numpy()
    held = "" if np.array_equal(score, free) else interval(partial_spearman, score, outcome, free)
    return [interval(lambda one, other: spearmanr(one, other).statistic, score, outcome), held]


def partial_spearman(score: np.ndarray, outcome: np.ndarray, held: np.ndarray) -> float:
    """Return the Spearman correlation of two variables, with a third one held."""
    r = np.corrcoef([rankdata(values) for values in (score, outcome, held)])
    return (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))


def interval(statistic: Callable[..., float], *columns: np.ndarray) -> str:
    """Return a statistic of the columns, arrays [n], with its bootstrap interval over the rows."""
    random, n = np.random.default_rng(0), len(columns[0])
    draws = random.integers(n, size=(RESAMPLES, n))
    low, high = np.quantile([statistic(*(column[draw] for column in columns)) for draw in draws], [0.025, 0.975])
    return f"{statistic(*columns):.2f} [{low:.2f}, {high:.2f}]"


def repeated(fall: pd.DataFrame) -> str:
    """Return the Spearman correlation between the first two trainings of the subsets."""
    if fall.shape[1] < 2:
        return "one training"
    both = fall.dropna()
    return f"{spearmanr(both.iloc[:, 0], both.iloc[:, 1]).statistic:.2f}"


if __name__ == "__main__":
    main()
