"""Batches that do not fit into memory; the errors are those that PyTorch raises."""

import numpy as np
import pytest
import torch

from recbole_dealrec.data import CandidateSamples, QueryDataLoader
from recbole_dealrec.model.memory import in_fitting_parts, out_of_memory
from recbole_dealrec.scorer import EffortScorer

CPU = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8"
)


def fits(most, error=None):
    """Doubles numbers, at most so many at once."""
    sizes = []

    def compute(batch):
        sizes.append(len(batch))
        if len(batch) > most:
            raise error or RuntimeError(CPU)
        return [2 * value for value in batch]

    return compute, sizes


def run(compute, batch):
    return in_fitting_parts(compute, batch, len(batch), lambda values, rows: values[rows], lambda parts: sum(parts, []))


@pytest.mark.parametrize("most", [1, 2, 3, 6, 7])
def test_halves_are_put_together_in_order(most, caplog):
    compute, sizes = fits(most)
    assert run(compute, [5, 3, 4, 1, 2, 0, 9]) == [10, 6, 8, 2, 4, 0, 18]
    assert max(size for size in sizes if size <= most) <= most
    assert ("a batch of 7 does not fit into memory and is halved" in caplog.text) == (most < 7)


def test_one_row_that_does_not_fit_and_other_errors_are_raised():
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        run(fits(0)[0], [1, 2])
    compute, sizes = fits(1, ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        run(compute, [1, 2])
    assert sizes == [2]


def test_what_is_out_of_memory():
    # More than any machine has: what the allocator really says.
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**55, dtype=torch.uint8)
    assert out_of_memory(error.value)
    assert out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("shapes do not match")) and not out_of_memory(KeyboardInterrupt())


class Limited:
    """A function that runs out of memory on more than some rows."""

    def __init__(self, function, most):
        self.function, self.most, self.sizes = function, most, []

    def __call__(self, *args, **kwargs):
        size = len(kwargs["input_ids"] if "input_ids" in kwargs else args[0])
        if size > self.most:
            raise RuntimeError(CPU)
        self.sizes.append(size)
        return self.function(*args, **kwargs)


def test_effort_goes_on_with_smaller_batches(bigrec, randomise_adapter, monkeypatch):
    llm, splits = bigrec()
    randomise_adapter(llm.network)
    samples = CandidateSamples.from_dataset(splits.train)
    expected = EffortScorer(llm, llm.config).score(samples)
    limited = Limited(llm.network.forward, 2)
    monkeypatch.setattr(llm.network, "forward", limited)
    np.testing.assert_allclose(EffortScorer(llm, llm.config).score(samples), expected, rtol=1e-4)
    assert set(limited.sizes) <= {1, 2}


def test_evaluation_goes_on_with_smaller_batches(tiger, monkeypatch):
    model, splits = tiger()
    model.eval()
    interaction, *_ = next(iter(QueryDataLoader(model.config, splits.test)))
    expected = model.full_sort_predict(interaction)
    limited = Limited(model.item_scores, 2)
    monkeypatch.setattr(model, "item_scores", limited)
    torch.testing.assert_close(model.full_sort_predict(interaction), expected)
    assert limited.sizes and max(limited.sizes) <= 2
