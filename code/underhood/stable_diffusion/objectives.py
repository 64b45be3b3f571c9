"""What the two parts of the model learn: modules from rows of the data to a loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from underhood.stable_diffusion.autoencoder import AutoencoderKL
from underhood.stable_diffusion.clip_text import CLIPTextModel
from underhood.stable_diffusion.data import EmojiSet
from underhood.stable_diffusion.losses import kl_divergence, reconstruction_loss
from underhood.stable_diffusion.noise_schedule import Scheduler
from underhood.stable_diffusion.trainer import Objective
from underhood.stable_diffusion.unet import UNet2DConditionModel


class AutoencoderObjective(Objective):
    """Reconstruction, with a tiny KL term that keeps the latents in one place.

    Args:
        kl_weight: of the KL divergence, a sum over a latent.
    """

    images: Tensor  # (pictures, 3, height, width), from -1 to 1

    def __init__(
        self, autoencoder: AutoencoderKL, emoji: EmojiSet, kl_weight: float = 1e-6
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.kl_weight = kl_weight
        self.rows = emoji.training()
        self.register_buffer("images", emoji.scaled(), persistent=False)
        side = emoji.images.shape[-1] // autoencoder.factor
        self.latent = (autoencoder.config["latent_channels"], side, side)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The noise of the latents: (batch, channels, h, w)."""
        return (torch.randn(batch, *self.latent, generator=generator),)

    def forward(self, rows: Tensor, noise: Tensor) -> Tensor:
        """The loss of the pictures in `rows`."""
        images = self.images[rows].contiguous(memory_format=torch.channels_last)
        posterior = self.autoencoder.encode(images)
        decoded = self.autoencoder.decode(posterior.mean + posterior.std * noise)
        kl = kl_divergence(posterior.mean, posterior.logvar)
        return reconstruction_loss(decoded, images) + self.kl_weight * kl


class DiffusionObjective(Objective):
    """The squared error of the predicted velocity, with its caption or without.

    Args:
        latents: (pictures, channels, h, w), scaled to a standard deviation of about 1.
        captions: (pictures, words), numbers of tokens.
        empty: (words,), the empty caption.
        rows: the pictures to learn from.
        dropout: how often the empty caption takes the place of a picture's own, which
            is what guidance needs.
    """

    latents: Tensor
    captions: Tensor
    empty: Tensor

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        scheduler: Scheduler,
        latents: Tensor,
        captions: Tensor,
        empty: Tensor,
        rows: Tensor,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.scheduler = scheduler
        self.rows = rows
        self.dropout = dropout
        for name, data in (
            ("latents", latents),
            ("captions", captions),
            ("empty", empty),
        ):
            self.register_buffer(name, data, persistent=False)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Noise (batch, channels, h, w), times (batch,), whether to drop (batch,)."""
        noise = torch.randn(batch, *self.latents.shape[1:], generator=generator)
        steps = self.scheduler.num_train_timesteps
        times = torch.randint(steps, (batch,), generator=generator)
        dropped = torch.rand(batch, generator=generator) < self.dropout
        return noise, times, dropped

    def forward(
        self, rows: Tensor, noise: Tensor, times: Tensor, dropped: Tensor
    ) -> Tensor:
        """The loss of the latents in `rows`."""
        clean = self.latents[rows].contiguous(memory_format=torch.channels_last)
        captions = torch.where(dropped[:, None], self.empty, self.captions[rows])
        states = self.text_encoder(captions).last_hidden_state
        noisy = self.scheduler.add_noise(clean, noise, times)
        wanted = self.scheduler.get_velocity(clean, noise, times)
        return F.mse_loss(self.unet(noisy, times, states), wanted)
