"""Stable Diffusion in one piece: text to image, image to image, inpainting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from underhood.stable_diffusion import folders
from underhood.stable_diffusion.attention import Attention
from underhood.stable_diffusion.autoencoder import AutoencoderKL
from underhood.stable_diffusion.checks import at_least
from underhood.stable_diffusion.clip_text import CLIPTextModel
from underhood.stable_diffusion.guidance import guide, rescale_guidance
from underhood.stable_diffusion.images import (
    Pictures,
    latent_mask,
    to_masked,
    to_pictures,
    to_tensor,
)
from underhood.stable_diffusion.noise import Generators, generators, normal
from underhood.stable_diffusion.noise_schedule import Scheduler, last_timesteps
from underhood.stable_diffusion.options import Options
from underhood.stable_diffusion.prompts import encode_prompts
from underhood.stable_diffusion.schedulers import DDIMScheduler
from underhood.stable_diffusion.tokenizer import CLIPTokenizer
from underhood.stable_diffusion.unet import UNet2DConditionModel

Output = list[Image.Image] | Tensor
Keep = Callable[[Tensor, Tensor | None], Tensor]


class StableDiffusion:
    """The five parts, and what they do together.

    Args:
        vae: pictures to latents and back. text_encoder, tokenizer: for the prompts.
        unet: the denoiser; with 9 input channels it is one for inpainting.
        scheduler: the sampler; replace the attribute to change it.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: Scheduler,
    ) -> None:
        self.vae, self.unet = vae.eval(), unet.eval()
        self.text_encoder, self.tokenizer = text_encoder.eval(), tokenizer
        self.scheduler = scheduler
        folders.check_parts(self.parts())

    @classmethod
    def from_pretrained(
        cls, directory: Path | str, *, variant: str | None = None
    ) -> StableDiffusion:
        """Read a Hugging Face folder in the layout of stable-diffusion-v1-5.

        Nothing is downloaded and nothing is unpickled. The safety checker is not read.

        Args:
            variant: of the weights, such as "fp16"; they become float32 in any case.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, does not fit, or asks for what is not here.
        """
        return cls(**folders.load_parts(directory, variant))

    def save_pretrained(self, directory: Path | str) -> None:
        """Write such a folder; diffusers reads it, too."""
        folders.save_parts(directory, self.parts())

    def parts(self) -> dict[str, Any]:
        """The five parts, by the names of their folders."""
        names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
        return {name: getattr(self, name) for name in names}

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> StableDiffusion:
        """Move the networks. Latents stay float32 between the steps, whatever dtype."""
        for model in (self.vae, self.text_encoder, self.unet):
            model.to(device=device, dtype=dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return self.unet.conv_in.weight.device

    def enable_attention_slicing(self, slice_size: int | None = 1) -> None:
        """Scores of that many (picture, head) pairs at a time; None: of all at once."""
        if slice_size is not None:
            at_least("slice_size", slice_size, 1)
        for module in (*self.vae.modules(), *self.unet.modules()):
            if isinstance(module, Attention):
                module.slice_size = slice_size

    def enable_vae_tiling(self, tile_size: int | None = 512) -> None:
        """Encode and decode in tiles of that many pixels; None: in one piece."""
        least = 4 * self.vae.factor
        if tile_size is not None and (tile_size < least or tile_size % least):
            raise ValueError(
                f"tile_size: got {tile_size}; allowed: multiples of {least}"
            )
        self.vae.tile_size = tile_size

    @torch.no_grad()
    def text_to_image(
        self,
        prompt: str | Sequence[str],
        *,
        height: int | None = None,
        width: int | None = None,
        latents: Tensor | None = None,
        **options: Any,
    ) -> Output:
        """Paint a picture for each prompt.

        Args:
            height, width: in pixels; None: as in training.
            latents: the noise to start from, (batch, channels, h, w), instead of the
                seed's.
            **options: see `Options`.

        Raises:
            ValueError: a size is no multiple of the autoencoder's factor, or an option
                has no meaning.
        """
        wanted = Options(**options)
        self._four_channels()
        words, generator = self._words(prompt, wanted), generators(wanted.seed)
        shape = self._latent_shape(words, wanted, height, width)
        if latents is not None and tuple(latents.shape) != shape:
            raise ValueError(
                f"latents: got shape {tuple(latents.shape)}; {shape} is needed"
            )
        noise = normal(shape, generator) if latents is None else latents
        timesteps = last_timesteps(self.scheduler, wanted.num_inference_steps, 1.0)
        start = noise.to(self.device) * self.scheduler.init_noise_sigma
        return self._denoise(start, timesteps, words, generator, wanted)

    @torch.no_grad()
    def image_to_image(
        self,
        prompt: str | Sequence[str],
        image: Pictures,
        *,
        strength: float = 0.8,
        **options: Any,
    ) -> Output:
        """Paint over a picture: add noise to it, then denoise.

        Args:
            image: one, or one for each prompt; see `to_tensor`.
            strength: in (0, 1], the share of the steps that are done. Even 1 leaves a
                trace of the picture, if the noise schedule does.
            **options: see `Options`.
        """
        wanted = Options(**options)
        self._four_channels()
        words, generator = self._words(prompt, wanted), generators(wanted.seed)
        timesteps = last_timesteps(self.scheduler, wanted.num_inference_steps, strength)
        pixels = to_tensor(image, self.vae.factor)
        clean = self._encode(pixels, _batch(words, wanted), generator)
        start = self._noised(clean, normal(clean.shape, generator), timesteps[0])
        return self._denoise(start, timesteps, words, generator, wanted)

    @torch.no_grad()
    def inpaint(
        self,
        prompt: str | Sequence[str],
        image: Pictures,
        mask: Pictures,
        *,
        strength: float = 1.0,
        **options: Any,
    ) -> Output:
        """Paint a part of a picture anew.

        A UNet with 9 input channels sees the mask and the masked picture at each step.
        With 4 channels, what lies outside the mask is put back after each step, as
        noisy as that step leaves the rest.

        Args:
            image: one, or one for each prompt; see `to_tensor`.
            mask: one, or one for each picture, of the same size; white (≥ 0.5) =
                paint anew.
            strength: as for `image_to_image`; 1 starts from pure noise.
            **options: see `Options`.
        """
        wanted = Options(**options)
        words, generator = self._words(prompt, wanted), generators(wanted.seed)
        batch = _batch(words, wanted)
        timesteps = last_timesteps(self.scheduler, wanted.num_inference_steps, strength)
        factor = self.vae.factor
        pixels, holes = to_masked(image, mask, factor, batch)
        nine = self.unet.config["in_channels"] != self.vae.config["latent_channels"]
        size = (pixels.shape[2] // factor, pixels.shape[3] // factor)
        where = latent_mask(holes, size).to(self.device)
        clean = None
        if strength < 1 or not nine:
            clean = self._encode(pixels, batch, generator)
        noise = normal((batch, self.vae.config["latent_channels"], *size), generator)
        if strength < 1 and clean is not None:
            start = self._noised(clean, noise, timesteps[0])
        else:
            start = noise.to(self.device) * self.scheduler.init_noise_sigma
        if nine:
            masked = pixels * (holes < 0.5) + 0.5 * (holes >= 0.5)  # gray: 0 in [-1, 1]
            seen = self._encode(masked, batch, generator)
            extra = torch.cat([where.expand(batch, -1, -1, -1), seen], dim=1)
            return self._denoise(start, timesteps, words, generator, wanted, extra)

        def keep(latents: Tensor, following: Tensor | None) -> Tensor:
            assert clean is not None
            old = clean
            if following is not None:  # as noisy as the next step wants it
                old = self._noised(clean, noise, following)
            return where * latents + (1 - where) * old

        return self._denoise(start, timesteps, words, generator, wanted, keep=keep)

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor | float,
        words: Tensor,
        guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
    ) -> Tensor:
        """What the UNet says, guided: (batch, channels, h, w), float32.

        Args:
            latents: (batch, in_channels, h, w), scaled by `scale_model_input`.
            words: (batch, length, width); with a guidance scale other than 1 the
                negative ones come first, (2 · batch, length, width).
        """
        dtype = self.unet.conv_in.weight.dtype
        twice = guidance_scale != 1
        x = torch.cat([latents] * 2) if twice else latents
        said = self.unet(x.to(dtype), timestep, words.to(dtype)).float()
        if not twice:
            return said
        without, with_words = said.chunk(2)
        guided = guide(without, with_words, guidance_scale)
        if guidance_rescale:
            guided = rescale_guidance(guided, with_words, guidance_rescale)
        return guided

    def _denoise(
        self,
        latents: Tensor,
        timesteps: Tensor,
        words: Tensor,
        generator: Generators,
        wanted: Options,
        extra: Tensor | None = None,
        keep: Keep | None = None,
    ) -> Output:
        """The loop: ask, guide, step. `extra` channels are shown to the UNet."""
        scheduler = self.scheduler
        stochastic: dict[str, Any] = {"generator": generator}
        if isinstance(scheduler, DDIMScheduler):
            stochastic["eta"] = wanted.eta
        for i, t in enumerate(tqdm(timesteps, disable=not wanted.progress)):
            x = scheduler.scale_model_input(latents, t)
            if extra is not None:
                x = torch.cat([x, extra], dim=1)
            scales = wanted.guidance_scale, wanted.guidance_rescale
            said = self.predict(x, t, words, *scales)
            latents = scheduler.step(said, t, latents, **stochastic).prev_sample
            if keep is not None:
                last = i == len(timesteps) - 1
                latents = keep(latents, None if last else timesteps[i + 1])
            if wanted.callback is not None:
                wanted.callback(i, int(t), latents)
        return self._finish(latents, wanted.output)

    def _finish(self, latents: Tensor, output: str) -> Output:
        if output == "latent":
            return latents
        image = (self.decode(latents) / 2 + 0.5).clamp(0, 1)
        return image if output == "tensor" else to_pictures(image)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents of the UNet to pixels, (batch, 3, H, W), about [-1, 1]."""
        shift = self.vae.config["shift_factor"] or 0.0
        z = latents / self.vae.config["scaling_factor"] + shift
        return self.vae.decode(z.to(self.vae.decoder.conv_in.weight.dtype)).float()

    def _encode(self, pixels: Tensor, batch: int, generator: Generators) -> Tensor:
        """Pixels in [0, 1] to `batch` latents of the UNet, float32."""
        if len(pixels) not in (1, batch):
            raise ValueError(
                f"image: got {len(pixels)} pictures; 1, or {batch}, is needed"
            )
        if isinstance(generator, Sequence) and len(pixels) < batch:
            pixels = pixels.expand(batch, -1, -1, -1)
        weight = self.vae.encoder.conv_in.weight
        found = self.vae.encode((2 * pixels - 1).to(weight)).sample(generator).float()
        found = found - (self.vae.config["shift_factor"] or 0.0)
        scaled = found * self.vae.config["scaling_factor"]
        return scaled.expand(batch, -1, -1, -1)

    def _four_channels(self) -> None:
        if self.unet.config["in_channels"] != self.vae.config["latent_channels"]:
            raise ValueError("unet: one for inpainting; only `inpaint` is possible")

    def _words(self, prompt: str | Sequence[str], wanted: Options) -> Tensor:
        return encode_prompts(prompt, self.tokenizer, self.text_encoder, wanted)

    def _noised(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        times = timestep.repeat(len(clean))
        return self.scheduler.add_noise(clean, noise.to(clean), times)

    def _latent_shape(
        self, words: Tensor, wanted: Options, height: int | None, width: int | None
    ) -> tuple[int, ...]:
        factor, usual = self.vae.factor, self.unet.config["sample_size"]
        sides = []
        for name, pixels in (("height", height), ("width", width)):
            if pixels is None and usual is None:
                raise ValueError(f"{name}: got None; this UNet has no sample_size")
            side = usual * factor if pixels is None else pixels
            if side < factor or side % factor:
                raise ValueError(
                    f"{name}: got {side}; a multiple of {factor} is needed"
                )
            sides.append(side // factor)
        return (_batch(words, wanted), self.vae.config["latent_channels"], *sides)


def _batch(words: Tensor, wanted: Options) -> int:
    """How many pictures."""
    return len(words) // 2 if wanted.guided else len(words)
