"""Part a of gpu.py: are the package's results on this device right?"""

from functools import partial

import numpy as np
import torch
from beam_search import query_batches
from effort_cost import ALONE, norms_alone
from gpu_rows import Row, Rows, peak
from gpu_setup import BEAMS, SMALL, SMALL_TIGER, Setup, small_games, title_trie, written
from scipy.stats import spearmanr

from recbole_dealrec import run_recbole_dealrec
from recbole_dealrec.data import CandidateSamples
from recbole_dealrec.model import BIGRec
from recbole_dealrec.model.surrogate import build_surrogate
from recbole_dealrec.scorer import InfluenceScorer
from recbole_dealrec.scorer.gradient_norm import gradient_norms

SAMPLES = 64  # whose effort is compared; one in ``ALONE`` of them also gets a separate backward pass
INFLUENCES = 1024
QUERIES = 8


def measure(setup: Setup, rows: Rows) -> None:
    """Add the rows of this part."""
    rows.add("effort, float32", partial(effort_error, setup, "float32"), setup.about(15))
    rows.add("effort, bfloat16", partial(effort_error, setup, "bfloat16"), setup.about(20))
    rows.add("influence", partial(influence_difference, setup), setup.about(20))
    rows.add("beam search", partial(beam_difference, setup), setup.about(20))
    for model in ("BIGRec", "TIGER"):
        rows.add(f"{model}, a small run", partial(small_run, setup, model), setup.about(25))


def effort_error(setup: Setup, dtype: str) -> Row:
    """Compare effort of batches with a backward pass for each sample, and the samples' ranks with those in float32."""
    norms, alone = effort_norms(setup, dtype)
    row = {"samples": len(alone), "largest relative difference": relative(norms[0], alone)}
    if dtype != "float32":
        row["rank correlation with float32"] = float(spearmanr(norms[1], effort_norms(setup, "float32")[0][1])[0])
    return row


def effort_norms(setup: Setup, dtype: str) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Return effort of the samples with a separate backward pass and of all, and that from the separate passes."""
    llm = setup.recommender(llm_dtype=dtype)
    batches = [batch for _, batch in llm.batches(setup.candidates[:SAMPLES])]
    with gradient_norms(llm.network) as norms_of:
        norms = [norms_of(batch) for batch in batches]
    some = np.concatenate([part[::ALONE] for part in norms])
    return (some, np.concatenate(norms)), np.array(norms_alone(llm.network, batches))


def influence_difference(setup: Setup) -> Row:
    """Compare influence on this device with that on the CPU, for the same surrogate with random weights."""
    config = setup.config(hessian_samples=64)
    torch.manual_seed(0)
    surrogate = build_surrogate(config.surrogate(), setup.splits.train)
    samples = setup.candidates[:INFLUENCES]
    here = InfluenceScorer(surrogate, config).score(samples)
    there = InfluenceScorer(surrogate.cpu(), config).score(samples)
    difference = float(np.abs(here - there).max() / np.abs(there).max())
    ranks = float(spearmanr(here, there)[0])
    return {"samples": len(samples), "largest relative difference": difference, "rank correlation": ranks}


def beam_difference(setup: Setup) -> Row:
    """Compare titles and their log-likelihoods on this device with those on the CPU."""
    (tokens, scores), (tokens_there, scores_there) = (written_titles(setup, use_gpu) for use_gpu in (True, False))
    same = (tokens == tokens_there).all(-1)
    return {
        "samples": len(tokens),
        "titles alike at their place": float(same.mean()),
        "largest difference of log-likelihoods": float(np.abs(scores - scores_there).max()),
    }


def written_titles(setup: Setup, use_gpu: bool) -> tuple[np.ndarray, np.ndarray]:
    llm: BIGRec = setup.recommender(llm_dtype="float32", use_gpu=use_gpu, eval_batch_size=QUERIES)
    (batch,) = query_batches(llm, CandidateSamples.from_dataset(setup.splits.test), 1)
    tokens, scores = written(llm, batch, title_trie(llm, llm.network.config.vocab_size))
    return tokens.cpu().numpy(), scores.cpu().numpy()


def small_run(setup: Setup, model: str) -> Row:
    """Run all steps from surrogates to metrics, on generated data."""
    own = {"llm_path": setup.llm, "num_beams": BEAMS, "grounding": "trie"} if model == "BIGRec" else SMALL_TIGER
    folder = setup.checkpoint_dir / "small"
    paths = {"data_path": small_games(folder), "checkpoint_dir": str(folder)}
    quiet = {"show_progress": False, "state": "WARNING"}
    result = run_recbole_dealrec(model, "games", config_dict={**SMALL, "topk": [10, 20], **own, **paths, **quiet})
    return {
        "samples": len(result["selected"]),
        "recall@10": result["test_result"]["recall@10"],
        "seconds": sum(result["seconds"].values()),
        "peak MiB": max(map(peak, result["memory_mib"].values())),
    }


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float((np.abs(found - expected) / expected).max())
