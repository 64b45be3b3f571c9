"""Data whose best denoiser is known exactly: a mixture of Gaussians.

Every sampler can be run on it without a trained network, and what comes out wrong is
the sampler's fault alone. With one narrow Gaussian on each picture of a data set it is
also what a network of unlimited size would learn from that set: to recall it.

Source: Karras et al. 2022, appendix B.3 (the ideal denoiser of a finite set).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from underhood.stable_diffusion.guidance import guide
from underhood.stable_diffusion.noise_schedule import Scheduler

Network = Callable[[Tensor, Tensor | float], Tensor]


class GaussianMixture:
    """Equally likely Gaussians of one width.

    Args:
        means: (components, dim). std: of each Gaussian, in every direction.
        labels: (components,), what each one is a picture of; None: all the same.
    """

    def __init__(self, means: Tensor, std: float, labels: Tensor | None = None) -> None:
        self.means, self.std = means.double(), std
        self.labels = torch.zeros(len(means)) if labels is None else labels

    def sample(self, count: int, label: int | None = None) -> Tensor:
        """Data: (count, dim), from the global generator."""
        means = self._means(label)
        chosen = means[torch.randint(len(means), (count,))]
        return chosen + self.std * torch.randn_like(chosen)

    def original(
        self, x: Tensor, alpha: float, sigma: float, label: int | None = None
    ) -> Tensor:
        """E[x₀ | x], where x = alpha · x₀ + sigma · ε: (batch, dim) -> the same.

        Args:
            label: only Gaussians with this label; None: all of them.

        Raises:
            ValueError: no Gaussian has this label.
        """
        means = self._means(label)
        variance = alpha**2 * self.std**2 + sigma**2
        # -|x - alpha · mean|² / 2 without |x|² / 2, which is the same for all means.
        lengths = alpha * torch.linalg.vector_norm(means, dim=-1)  # (k,)
        near = alpha * x.double() @ means.T - lengths**2 / 2  # (batch, k)
        share = (near / variance).softmax(dim=-1)
        mean = share @ means  # of the Gaussians that x may come from
        return mean + alpha * self.std**2 / variance * (x.double() - alpha * mean)

    def noise(
        self, x: Tensor, alpha: float, sigma: float, label: int | None = None
    ) -> Tensor:
        """E[ε | x], what the best network predicts; also -sigma · ∇ log p(x)."""
        return (x.double() - alpha * self.original(x, alpha, sigma, label)) / sigma

    def log_density(
        self, x: Tensor, alpha: float, sigma: float, label: int | None = None
    ) -> Tensor:
        """log p(x) up to a constant, of noisy data: (batch, dim) -> (batch,)."""
        variance = alpha**2 * self.std**2 + sigma**2
        squares = torch.cdist(x.double(), alpha * self._means(label)) ** 2
        return (-squares / (2 * variance)).logsumexp(dim=-1)

    def _means(self, label: int | None) -> Tensor:
        if label is None:
            return self.means
        of_label = self.labels == label
        if not of_label.any():
            allowed = self.labels.unique().tolist()
            raise ValueError(f"label: got {label}; allowed: {allowed}")
        return self.means[of_label]


def exact_network(
    data: GaussianMixture,
    scheduler: Scheduler,
    label: int | None = None,
    *,
    scale: float = 1.0,
    negative: int | None = None,
    interval: tuple[float, float] = (0.0, float("inf")),
) -> Network:
    """The best network there is, as a sampler calls it: (x, timestep) -> output.

    Args:
        label: what to paint. scale: of the guidance; 1 is none.
        negative: what to stay away from; None: from all of the data.
        interval: guide only where σ/α lies in it (Kynkäänniemi et al. 2024).
    """
    ratio = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).double().numpy()
    steps = np.arange(len(ratio))

    def predict(x: Tensor, timestep: Tensor | float) -> Tensor:
        quotient = float(np.interp(float(timestep), steps, np.sqrt(ratio)))
        alpha = 1 / np.sqrt(quotient**2 + 1) if np.isfinite(quotient) else 0.0
        sigma = np.sqrt(1 - alpha**2)

        def answer(which: int | None) -> Tensor:
            original = data.original(x, alpha, sigma, which)
            if scheduler.prediction_type == "sample":
                return original
            noise = (x.double() - alpha * original) / sigma
            if scheduler.prediction_type == "epsilon":
                return noise
            return alpha * noise - sigma * original

        said = answer(label)
        if scale != 1 and interval[0] <= quotient <= interval[1]:
            said = guide(answer(negative), said, scale)
        return said

    return predict
