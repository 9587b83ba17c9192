"""Separate copies of T5's relative position biases for the samples of a batch, which normally share them."""

from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn


@contextmanager
def biases_of_samples(model: nn.Module, owners: Container[nn.Module], batch_size: int) -> Iterator[None]:
    """Call the embeddings of relative positions on a batch, so that their gradients are separate for each sample.

    Attention modules of T5 look up a bias [1, heads, query, key] in ``relative_attention_bias`` by their method
    ``compute_bias``. While the context is open, the embedding looks up [batch, query, key, heads], which hooks
    registered before also see, and the method returns [batch, heads, query, key].

    Args:
        model: any model.
        owners: embeddings to call on a batch.
        batch_size: number of samples in a batch.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if getattr(module, "relative_attention_bias", None) in owners and hasattr(module, "compute_bias"):
                stack.enter_context(_bias_of_samples(module, batch_size))
        yield


@contextmanager
def _bias_of_samples(attention: nn.Module, batch_size: int) -> Iterator[None]:
    """Apply ``biases_of_samples`` to one attention module."""
    shared = attention.compute_bias

    def compute_bias(*args, **kwargs) -> Tensor:
        return shared(*args, **kwargs).unflatten(1, (batch_size, -1)).squeeze(0)

    embedding = attention.relative_attention_bias
    handles = [
        embedding.register_forward_pre_hook(lambda _, args: args[0].expand(batch_size, *args[0].shape)),
        # The method moves the last dimension to the front, so the samples are merged into it, with the heads.
        embedding.register_forward_hook(lambda _, __, output: output.permute(1, 2, 0, 3).flatten(2)),
    ]
    attention.compute_bias = compute_bias
    try:
        yield
    finally:
        del attention.compute_bias
        for handle in handles:
            handle.remove()
