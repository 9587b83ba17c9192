"""The softmax over all items, in chunks of rows: the logits of a batch are the largest thing a surrogate makes."""

import torch
from torch import Tensor

_LOGITS_PER_CHUNK = {"cpu": 500_000, "cuda": 50_000_000}  # 2 MB of float32 stay in a processor's cache


def row_chunks(outputs: Tensor, n_items: int) -> tuple[Tensor, ...]:
    """Outputs [B, d] in chunks of rows whose logits are to be held at a time."""
    return outputs.split(max(1, _LOGITS_PER_CHUNK.get(outputs.device.type, 500_000) // n_items))


def softmax_cross_entropy(outputs: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of ``outputs @ items.T``, whose logits are built once and never kept.

    The gradient is taken in the same pass, which takes half the time of ``cross_entropy`` and its backward pass.

    Args:
        outputs: [B, d], B > 0.
        items: embeddings, [n_items, d].
        targets: int64 [B].

    Returns:
        Scalar, differentiable once by outputs and items.
    """
    return _SoftmaxCrossEntropy.apply(outputs, items, targets)


class _SoftmaxCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, outputs: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        loss = outputs.new_zeros(())
        output_gradient, item_gradient = torch.empty_like(outputs), torch.zeros_like(items)
        start = 0
        for chunk in row_chunks(outputs, len(items)):
            rows = slice(start, start + len(chunk))
            logits = chunk @ items.T
            highest = logits.amax(dim=-1, keepdim=True)
            of_target = logits.gather(1, targets[rows, None])
            weights = logits.sub_(highest).exp_()
            total = weights.sum(dim=-1, keepdim=True)
            loss += (highest + total.log() - of_target).sum()
            weights.div_(total)
            output_gradient[rows] = weights @ items
            item_gradient.addmm_(weights.T, chunk)
            start = rows.stop
        output_gradient -= items[targets]
        item_gradient.index_add_(0, targets, outputs, alpha=-1)
        ctx.save_for_backward(output_gradient, item_gradient)
        return loss / len(outputs)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        output_gradient, item_gradient = ctx.saved_tensors
        scale = gradient / len(output_gradient)
        return output_gradient * scale, item_gradient * scale, None
