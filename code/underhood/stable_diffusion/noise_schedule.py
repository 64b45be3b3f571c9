"""How much noise at which time, and what a prediction of the network says about it.

All samplers share this file. x_t = √ᾱ_t · x₀ + √(1 - ᾱ_t) · ε, where ᾱ
(`alphas_cumprod`) falls from nearly 1 to nearly 0. σ = √((1 - ᾱ) / ᾱ) is the noise
per unit of signal.

Sources: Ho et al., "Denoising Diffusion Probabilistic Models", 2020; Salimans and Ho,
"Progressive Distillation", 2022, for v; Karras et al. 2022 for their spacing of σ; Lin
et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2024, for the
rescaling and the names of the spacings. The arithmetic (float32) is that of diffusers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from underhood.stable_diffusion.checks import at_least, one_of
from underhood.stable_diffusion.config import Configured

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "trailing", "linspace")


def make_betas(steps: int, start: float, end: float, schedule: str) -> Tensor:
    """The noise that each training step adds: (steps,), float32.

    Args:
        schedule: "linear" in β (DDPM), "scaled_linear" in √β (Stable Diffusion), or
            "squaredcos_cap_v2", which makes ᾱ a squared cosine and ignores the ends.
    """
    one_of("beta_schedule", schedule, BETA_SCHEDULES)
    if schedule == "linear":
        return torch.linspace(start, end, steps)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps) ** 2

    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    ratios = [alpha_bar((i + 1) / steps) / alpha_bar(i / steps) for i in range(steps)]
    return torch.tensor([min(1 - ratio, 0.999) for ratio in ratios])


def rescale_zero_terminal_snr(betas: Tensor) -> Tensor:
    """Shift and stretch √ᾱ so that nothing of the picture is left at the last step."""
    root = (1 - betas).cumprod(0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alphas_cumprod = root**2
    alphas = torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
    return 1 - alphas


def spaced_timesteps(
    spacing: str, train_steps: int, steps: int, offset: int
) -> np.ndarray:
    """Which of the training steps a sampler visits, the noisiest first.

    Args:
        spacing: "leading" counts up from 0 (and never reaches the end: what
            `steps_offset` mends a little), "trailing" counts down from the end,
            "linspace" takes both ends.

    Returns:
        (steps,), float64; whole numbers, but for linspace.
    """
    one_of("timestep_spacing", spacing, SPACINGS)
    if spacing == "linspace":
        return np.linspace(0, train_steps - 1, steps)[::-1].copy()
    if spacing == "leading":
        return (np.arange(steps) * (train_steps // steps))[::-1].astype(float) + offset
    return np.arange(train_steps, 0, -train_steps / steps).round() - 1


def karras_sigmas(smallest: float, largest: float, steps: int) -> np.ndarray:
    """Evenly spaced in σ^(1/7), the largest first: small steps where σ is small."""
    ramp = np.linspace(0, 1, steps)
    ends = largest ** (1 / 7), smallest ** (1 / 7)
    return (ends[0] + ramp * (ends[1] - ends[0])) ** 7


def timesteps_of_sigmas(sigmas: np.ndarray, of_training: np.ndarray) -> np.ndarray:
    """The (fractional) training steps with these σ, by interpolation in log σ."""
    steps = np.arange(len(of_training))
    return np.interp(np.log(np.maximum(sigmas, 1e-10)), np.log(of_training), steps)


def to_original(
    kind: str, output: Tensor, sample: Tensor, alpha: Tensor, sigma: Tensor
) -> Tensor:
    """x₀, from what the network said about x = alpha · x₀ + sigma · ε.

    Args:
        kind: what the network predicts: "epsilon" (ε), "sample" (x₀), or
            "v_prediction" (v = alpha · ε - sigma · x₀).
        output, sample: the prediction and x. alpha² + sigma² = 1.
    """
    if kind == "epsilon":
        return (sample - sigma * output) / alpha
    return output if kind == "sample" else alpha * sample - sigma * output


def to_noise(
    kind: str, output: Tensor, sample: Tensor, alpha: Tensor, sigma: Tensor
) -> Tensor:
    """ε, from what the network said; arguments as for `to_original`."""
    if kind == "epsilon":
        return output
    if kind == "sample":
        return (sample - alpha * output) / sigma
    return alpha * output + sigma * sample


class Step(NamedTuple):
    """What a step of a sampler returns."""

    prev_sample: Tensor  # one step less noisy
    pred_original_sample: Tensor  # the picture, as it looked from here


class Scheduler(Configured):
    """What all samplers have in common; see one of them for `step`.

    The defaults are those of Stable Diffusion, not of diffusers' constructors.

    Args:
        num_train_timesteps: T. beta_start, beta_end, beta_schedule: see `make_betas`.
        prediction_type: see `to_original`.
        timestep_spacing, steps_offset: see `spaced_timesteps`; None: "leading" for
            DDPM, DDIM and PNDM, "linspace" for the others.
        rescale_betas_zero_snr: no signal at the last step; the network must not predict
            noise then, which would say nothing about the picture there.

    Attributes:
        betas, alphas_cumprod: (T,). timesteps: what to visit, the noisiest first.
        init_noise_sigma: the standard deviation of the noise to start from.

    Raises:
        ValueError: an argument has no meaning; the message names it.
    """

    only = {
        "algorithm_type": "dpmsolver++",
        "interpolation_type": "linear",
        "thresholding": False,
        "timestep_type": "discrete",
        "trained_betas": None,
        "use_beta_sigmas": False,
        "use_exponential_sigmas": False,
        "use_flow_sigmas": False,
        "use_lu_lambdas": False,
    }
    ignored = None  # settings of other samplers: a configuration may change its class
    left_out = {
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "steps_offset": 0,
    }
    init_noise_sigma: float = 1.0
    default_spacing = "leading"
    interpolates = False  # σ of any step, between those of the training or beyond them

    def __init__(
        self,
        *,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        prediction_type: str = "epsilon",
        timestep_spacing: str | None = None,
        steps_offset: int = 1,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        self.remember(locals())
        at_least("num_train_timesteps", num_train_timesteps, 1)
        one_of("prediction_type", prediction_type, PREDICTION_TYPES)
        one_of("timestep_spacing", self.spacing, SPACINGS)
        if rescale_betas_zero_snr and prediction_type == "epsilon":
            raise ValueError(
                "rescale_betas_zero_snr: got True with prediction_type 'epsilon'; "
                "needs 'v_prediction' or 'sample'"
            )
        betas = make_betas(num_train_timesteps, beta_start, beta_end, beta_schedule)
        self.betas = (
            rescale_zero_terminal_snr(betas) if rescale_betas_zero_snr else betas
        )
        self.alphas_cumprod = (1 - self.betas).cumprod(0)
        self.prediction_type = prediction_type
        self.num_train_timesteps = num_train_timesteps
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps).flip(0)
        self.begin_index: int | None = None

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the steps to visit, and forget the last picture.

        Raises:
            ValueError: fewer than one, or more than the training had; or the first
                one would be later than the last of the training.
        """
        at_least("num_inference_steps", num_inference_steps, 1)
        if num_inference_steps > self.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps: got {num_inference_steps}; at most "
                f"num_train_timesteps ({self.num_train_timesteps}) are possible"
            )
        self.num_inference_steps, self.begin_index = num_inference_steps, None
        self.timesteps = torch.from_numpy(
            self.spaced(num_inference_steps).round()
        ).long()
        first = int(self.timesteps[0])
        if first >= self.num_train_timesteps and not self.interpolates:
            raise ValueError(
                f"num_inference_steps: got {num_inference_steps}; with spacing "
                f"{self.spacing!r} and steps_offset {self.config['steps_offset']} the "
                f"first step would be {first} of 0 to {self.num_train_timesteps - 1}; "
                f"take fewer, a smaller offset, or 'trailing'"
            )

    @property
    def spacing(self) -> str:
        """The spacing of the timesteps that was asked for, or that of this sampler."""
        return self.config["timestep_spacing"] or self.default_spacing

    def training_sigmas(self) -> np.ndarray:
        """Noise per signal, √(1 - ᾱ) / √ᾱ, of each step of the training: (T,)."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().numpy()

    def spaced(self, steps: int) -> np.ndarray:
        """`spaced_timesteps`, with the settings of this sampler."""
        offset = self.config["steps_offset"]
        return spaced_timesteps(self.spacing, self.num_train_timesteps, steps, offset)

    def set_begin_index(self, begin_index: int) -> None:
        """Start at this position of `timesteps` (from a picture, not from noise)."""
        self.begin_index = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """What the network wants to see of a sample; here the sample itself."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        **options: Any,
    ) -> Step:
        """One step towards the picture."""
        raise NotImplementedError

    def add_noise(
        self, original_samples: Tensor, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """x_t from x₀ and noise, in one go: √ᾱ_t · x₀ + √(1 - ᾱ_t) · noise.

        Args:
            original_samples, noise: (batch, ...). timesteps: (batch,).
        """
        alpha, sigma = self.alpha_sigma(timesteps, like=original_samples)
        return alpha * original_samples + sigma * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What a v-prediction network learns: √ᾱ_t · noise - √(1 - ᾱ_t) · x₀."""
        alpha, sigma = self.alpha_sigma(timesteps, like=sample)
        return alpha * noise - sigma * sample

    def alpha_sigma(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1 - ᾱ_t), each (batch, 1, ...) with as many axes as `like`."""
        shape = (-1,) + (1,) * (like.ndim - 1)
        # From ordinary memory to a GPU this is safe, and the host need not wait.
        table = self.alphas_cumprod.to(like.device, non_blocking=True)
        ratio = table[timesteps.to(like.device)].view(shape)
        return ratio.sqrt().to(like.dtype), (1 - ratio).sqrt().to(like.dtype)

    def alpha_bar(self, timestep: int, final: float | Tensor = 1.0) -> Tensor:
        """ᾱ at a step; `final` before the first one."""
        return (
            self.alphas_cumprod[timestep] if timestep >= 0 else torch.as_tensor(final)
        )

    def position_of(self, timestep: Tensor | float) -> int:
        """Where in `timesteps` a run begins that begins with this step.

        Rounding may put a step there twice; then `set_begin_index` says which one.
        """
        if self.begin_index is not None:
            return self.begin_index
        found = (self.timesteps == torch.as_tensor(timestep)).nonzero().flatten()
        if not len(found):
            raise ValueError(f"timestep: got {timestep}; it is not among `timesteps`")
        return int(found[0])

    def stride(self) -> int:
        """Training steps per step of the sampler.

        Raises:
            RuntimeError: `set_timesteps` was not called.
        """
        if self.num_inference_steps is None:
            raise RuntimeError("set_timesteps must be called before step")
        return self.num_train_timesteps // self.num_inference_steps


def last_timesteps(scheduler: Scheduler, steps: int, strength: float) -> Tensor:
    """Prepare a run of the last `strength` of all steps, and return its timesteps.

    Raises:
        ValueError: strength is not in (0, 1], or not one whole step is left.
    """
    done = int(steps * strength)
    if not 0 < strength <= 1 or done < 1:
        raise ValueError(
            f"strength: got {strength}; allowed: at most 1, and at least one of the "
            f"{steps} steps"
        )
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(steps - done)
    return scheduler.timesteps[steps - done :]
