"""stable_diffusion: data with a known best denoiser, and the smallest sampling loop."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
)

from diffusion_peers import SD_SCHEDULE
from underhood.stable_diffusion import schedulers
from underhood.stable_diffusion.mixture import GaussianMixture, exact_network
from underhood.stable_diffusion.sampling import invert, sample

MEANS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.5, -1.0], [-1.0, 0.5, 2.0]])
labels = torch.tensor([0, 1, 0])
STD = 0.3
ALPHA, SIGMA = 0.8, 0.6


def mixture() -> GaussianMixture:
    return GaussianMixture(MEANS, STD, labels)


def noisy(means: Tensor) -> MixtureSameFamily:
    """What `ALPHA · x₀ + SIGMA · ε` is distributed as, by torch.distributions."""
    width = (ALPHA**2 * STD**2 + SIGMA**2) ** 0.5
    parts = Independent(Normal(ALPHA * means.double(), width), 1)
    return MixtureSameFamily(Categorical(torch.ones(len(means))), parts)


@pytest.mark.parametrize("label", [None, 0, 1])
def test_density_and_score(label: int | None) -> None:
    means = MEANS if label is None else MEANS[labels == label]
    torch.manual_seed(0)
    x = torch.randn(50, 3, dtype=torch.float64, requires_grad=True)
    density = noisy(means).log_prob(x)
    (score,) = torch.autograd.grad(density.sum(), x)
    x = x.detach()
    found = mixture().log_density(x, ALPHA, SIGMA, label)
    torch.testing.assert_close(found - found[0], (density - density[0]).detach())
    torch.testing.assert_close(mixture().noise(x, ALPHA, SIGMA, label), -SIGMA * score)
    # Tweedie's formula: E[x₀ | x] from the score alone.
    original = (x + SIGMA**2 * score) / ALPHA
    torch.testing.assert_close(mixture().original(x, ALPHA, SIGMA, label), original)


def test_a_label_that_nothing_has_is_refused() -> None:
    data, x = mixture(), torch.zeros(2, 3)
    for call in (data.original, data.noise, data.log_density):
        with pytest.raises(ValueError, match=r"label: got 7; allowed: \[0, 1\]"):
            call(x, ALPHA, SIGMA, 7)
    with pytest.raises(ValueError, match=r"label: got 7; allowed: \[0, 1\]"):
        data.sample(2, 7)
    network = exact_network(data, schedulers.DDIMScheduler(), 0, scale=2.0, negative=7)
    with pytest.raises(ValueError, match=r"label: got 7; allowed: \[0, 1\]"):
        network(x, 500)


def test_density_of_single_precision() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    expected = mixture().log_density(x.double(), ALPHA, SIGMA)
    torch.testing.assert_close(mixture().log_density(x, ALPHA, SIGMA), expected)


@pytest.mark.parametrize("label", [None, 0, 1])
def test_samples(label: int | None) -> None:
    torch.manual_seed(0)
    data = mixture().sample(100_000, label)
    means = (MEANS if label is None else MEANS[labels == label]).double()
    spread = (means.T.cov(correction=0) if len(means) > 1 else 0) + STD**2 * torch.eye(
        3
    )
    torch.testing.assert_close(data.mean(dim=0), means.mean(dim=0), atol=0.02, rtol=0)
    torch.testing.assert_close(data.T.cov(), spread.double(), atol=0.03, rtol=0)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("step", [0, 500, 999])
def test_the_network_says_what_diffusers_expects(kind: str, step: int) -> None:
    """From each kind of output, diffusers finds the same picture in the noise."""
    config = {**SD_SCHEDULE, "prediction_type": kind, "clip_sample": False}
    theirs = diffusers.DDIMScheduler(**config)
    theirs.set_timesteps(1000)
    network = exact_network(mixture(), schedulers.DDIMScheduler(**config), 0)
    alpha = theirs.alphas_cumprod[step].double().sqrt().item()
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    found = theirs.step(network(x, step), step, x).pred_original_sample
    expected = mixture().original(x, alpha, (1 - alpha**2) ** 0.5, 0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "sign"), [("v_prediction", -1), ("sample", 1)])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_the_network_at_the_end_of_a_schedule_without_signal(
    kind: str, sign: int, scale: float
) -> None:
    """There, v = -x₀; and of pure noise the best guess is the mean of the data.

    Guidance goes from the mean of all data to that of the label's, and beyond.
    """
    scheduler = schedulers.DDIMScheduler(
        **SD_SCHEDULE, prediction_type=kind, rescale_betas_zero_snr=True
    )
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    said = exact_network(mixture(), scheduler, 1, scale=scale)(x, 999)
    mean, own = MEANS.mean(dim=0).double(), MEANS[1].double()
    expected = sign * (mean + scale * (own - mean)).expand(5, 3)
    torch.testing.assert_close(said, expected, atol=1e-6, rtol=0)


def test_guidance_and_its_interval() -> None:
    scheduler = schedulers.DDIMScheduler(**SD_SCHEDULE)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    step = 400
    cumprod = diffusers.DDIMScheduler(**SD_SCHEDULE).alphas_cumprod[step].double()
    alpha, sigma = cumprod.sqrt().item(), (1 - cumprod).sqrt().item()
    with_label = mixture().noise(x, alpha, sigma, 0)

    def said(**options) -> Tensor:
        return exact_network(mixture(), scheduler, 0, **options)(x, step)

    for negative in (None, 1):
        against = mixture().noise(x, alpha, sigma, negative)
        expected = against + 3.0 * (with_label - against)
        found = said(scale=3.0, negative=negative)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    quotient = sigma / alpha
    for interval, guided in [
        ((0.0, quotient * 1.01), True),
        ((quotient * 0.99, 100.0), True),
        ((0.0, quotient * 0.99), False),
        ((quotient * 1.01, 100.0), False),
    ]:
        same = torch.allclose(said(scale=3.0, interval=interval), with_label, atol=1e-6)
        assert same is not guided


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]
)
def test_the_loop(name: str) -> None:
    """Against the loop of a pipeline of diffusers, written out, with its scheduler."""
    latents = {"clip_sample": False, "set_alpha_to_one": False}
    config = SD_SCHEDULE | (latents if name == "DDIMScheduler" else {})
    ours = getattr(schedulers, name)(**config)
    theirs = getattr(diffusers, name)(**config)
    network = exact_network(mixture(), ours)
    noise = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double()
    theirs.set_timesteps(12)
    x = noise * theirs.init_noise_sigma
    for t in theirs.timesteps:
        said = network(theirs.scale_model_input(x, t), t)
        x = theirs.step(said, t, x).prev_sample
    torch.testing.assert_close(
        sample(ours, network, noise, 12), x, atol=1e-5, rtol=1e-5
    )


def test_inversion() -> None:
    """Against diffusers' inverse scheduler, a class of its own.

    It names a step by where it leads to. We ask the network about where it starts.
    """
    config = {**SD_SCHEDULE, "clip_sample": False, "set_alpha_to_one": False}
    ours = schedulers.DDIMScheduler(**config)
    theirs = diffusers.DDIMInverseScheduler(**config)
    network = exact_network(mixture(), ours)
    torch.manual_seed(0)
    data = mixture().sample(8)
    theirs.set_timesteps(20)
    x = data
    for t in theirs.timesteps:
        x = theirs.step(network(x, max(int(t) - 50, 0)), t, x).prev_sample
    found = invert(ours, network, data, 20)
    torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-5)
