"""How to sample: what every entry point of the pipeline takes by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from underhood.stable_diffusion.checks import at_least, fraction, one_of
from underhood.stable_diffusion.images import OUTPUTS

Callback = Callable[[int, int, Tensor], None]


@dataclass
class Options:
    """Options of `text_to_image`, `image_to_image` and `inpaint`.

    Attributes:
        num_inference_steps: steps of the sampler, for all of the noise.
        guidance_scale: see `guide`; 1 asks the network once per step, else twice.
        guidance_rescale: see `rescale_guidance`.
        negative_prompt: what to stay away from; one, or one for each prompt. None is
            an empty one.
        num_images_per_prompt: pictures for each prompt.
        seed: of a CPU generator: the same pictures on every device. One for the batch,
            or one for each picture, which then does not depend on its neighbors.
        eta: noise on the way, 0 to 1, for DDIM only. clip_skip: see `CLIPTextModel`.
        callback: called after each step with its number, its time, and the latents,
            (batch, channels, h, w), float32.
        progress: show a progress bar.
        output: "pil" pictures, a "tensor" (batch, 3, H, W) in [0, 1], or the "latent".

    Raises:
        ValueError: a number has no meaning, or the output is unknown.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.0
    negative_prompt: str | Sequence[str] | None = ""
    num_images_per_prompt: int = 1
    seed: int | np.integer | Sequence[int] | None = None
    eta: float = 0.0
    clip_skip: int = 0
    callback: Callback | None = None
    progress: bool = True
    output: str = "pil"

    def __post_init__(self) -> None:
        at_least("num_inference_steps", self.num_inference_steps, 1)
        at_least("num_images_per_prompt", self.num_images_per_prompt, 1)
        fraction("eta", self.eta)
        if not math.isfinite(self.guidance_scale):
            raise ValueError(
                f"guidance_scale: got {self.guidance_scale}; a finite number is needed"
            )
        one_of("output", self.output, OUTPUTS)

    @property
    def guided(self) -> bool:
        """Whether the network is asked twice per step."""
        return self.guidance_scale != 1
