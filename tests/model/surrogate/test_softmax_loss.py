"""The chunked softmax over all items against PyTorch's own."""

import pytest
import torch

from recbole_dealrec.model.surrogate import softmax_loss
from recbole_dealrec.model.surrogate.softmax_loss import softmax_cross_entropy


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_loss_and_gradients(rows, monkeypatch):
    monkeypatch.setitem(softmax_loss._LOGITS_PER_CHUNK, "cpu", rows * 11)
    monkeypatch.setattr(softmax_loss, "_LEAST_ROWS", 1)
    outputs = (20 * torch.randn(7, 5, dtype=torch.float64)).requires_grad_()
    items = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 3, 10, 3, 3, 7, 1])
    found = 2.5 * softmax_cross_entropy(outputs, items, targets)
    expected = 2.5 * torch.nn.functional.cross_entropy(outputs @ items.T, targets)
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad(loss, [outputs, items]) for loss in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)


def test_large_logits_do_not_overflow():
    outputs = torch.full((2, 1), 1e4, requires_grad=True)
    loss = softmax_cross_entropy(outputs, torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))
    torch.testing.assert_close(loss, torch.tensor(5e3))
    assert torch.autograd.grad(loss, outputs)[0].isfinite().all()


def test_logits_are_not_kept(monkeypatch):
    monkeypatch.setitem(softmax_loss._LOGITS_PER_CHUNK, "cpu", 2 * 1000)
    monkeypatch.setattr(softmax_loss, "_LEAST_ROWS", 1)
    made = []
    matmul = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda *args: made.append(matmul(*args)) or made[-1])
    softmax_cross_entropy(torch.randn(9, 4), torch.randn(1000, 4), torch.zeros(9, dtype=torch.int64))
    assert max(tensor.numel() for tensor in made) == 2 * 1000


def test_chunks_have_128_rows_however_many_items_there_are():
    lengths = lambda n_items: [len(chunk) for chunk in softmax_loss.row_chunks(torch.empty(1000, 4), n_items)]  # noqa: E731
    assert lengths(10**6) == [128] * 7 + [104]
    assert lengths(2000) == [500, 500]
