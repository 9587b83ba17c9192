"""RQ-VAE (Lee et al., arXiv 2203.01941) of item embeddings, with the layer sizes of TIGER (arXiv 2305.05065)."""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

from recbole_dealrec.store.console import progress_bar

_HIDDEN, _LATENT = (512, 256, 128), 32
_COMMITMENT = 0.25


class RQVAE(nn.Module):
    """Autoencoder whose latent vector is a sum of code vectors, one per level.

    Codebooks are initialised by k-means and updated by a moving average of their members (in the paper by a loss);
    codes without members are re-initialised. Gradients use the straight-through estimator.

    Args:
        dimension: dimension of the embeddings.
        levels: codes of an embedding.
        codes: codes of each level.
    """

    def __init__(self, dimension: int, levels: int, codes: int) -> None:
        super().__init__()
        sizes = (dimension, *_HIDDEN, _LATENT)
        self.encoder, self.decoder = _mlp(sizes), _mlp(sizes[::-1])
        self.quantiser = ResidualVQ(
            dim=_LATENT, num_quantizers=levels, codebook_size=codes, kmeans_init=True, decay=0.99,
            threshold_ema_dead_code=1, commitment_weight=_COMMITMENT, rotation_trick=False,
        )  # fmt: skip

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the loss of a batch [B, d]: mean squared distances of reconstruction plus those of commitment."""
        quantised, _, commitment = self.quantiser(self.encoder(embeddings))
        reconstruction = F.mse_loss(self.decoder(quantised), embeddings)
        return reconstruction * embeddings.shape[1] + commitment.sum() * _LATENT

    @torch.no_grad()
    def codes(self, embeddings: Tensor) -> Tensor:
        """Return the codes of embeddings [n, d], int64 [n, levels]."""
        return self.quantiser(self.encoder(embeddings))[1]


def _mlp(sizes: tuple[int, ...]) -> nn.Sequential:
    layers = [layer for fan_in, fan_out in pairwise(sizes) for layer in (nn.Linear(fan_in, fan_out), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def rqvae_codes(
    embeddings: np.ndarray, levels: int, codes: int, *, steps: int, seed: int, device: str, show_progress: bool,
    batch_size: int = 1024, learning_rate: float = 1e-3,
) -> np.ndarray:  # fmt: skip
    """Train an RQ-VAE on embeddings and return their codes; the same seed gives the same codes.

    Args:
        embeddings: float32 [n, d].
        levels: codes of each embedding.
        codes: codes of each level.
        steps: optimizer steps of AdamW.
        seed: seed of weights, batches and codebooks; PyTorch's global generators are not changed.
        device: device to train on.
        show_progress: whether to draw a progress bar.
        batch_size: embeddings per step.
        learning_rate: learning rate.

    Returns:
        int64 [n, levels].
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        data = torch.from_numpy(embeddings).to(device)
        data = (data - data.mean(0)) / data.std().clamp(min=torch.finfo(data.dtype).tiny)
        model = RQVAE(data.shape[1], levels, codes).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
        for _ in progress_bar(range(steps), show_progress, desc="RQ-VAE"):
            batch = data[torch.randperm(len(data), device=device)[:batch_size]]
            loss = model(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model.eval().codes(data).cpu().numpy()
