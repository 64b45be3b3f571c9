"""stable_diffusion: samplers against diffusers', published sums, and formulas."""

from __future__ import annotations

import random
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_peers import SD_SCHEDULE
from underhood.stable_diffusion import schedulers
from underhood.stable_diffusion.noise_schedule import (
    make_betas,
    rescale_zero_terminal_snr,
    to_noise,
    to_original,
)

ON_OFF = (False, True)
OWN: dict[str, dict[str, tuple]] = {
    "DDPMScheduler": {
        "variance_type": ("fixed_small", "fixed_large"),
        "clip_sample": ON_OFF,
        "rescale_betas_zero_snr": ON_OFF,
    },
    "DDIMScheduler": {
        "set_alpha_to_one": ON_OFF,
        "clip_sample": ON_OFF,
        "rescale_betas_zero_snr": ON_OFF,
    },
    "PNDMScheduler": {"set_alpha_to_one": ON_OFF, "skip_prk_steps": ON_OFF},
    "EulerDiscreteScheduler": {
        "use_karras_sigmas": ON_OFF,
        "final_sigmas_type": ("zero", "sigma_min"),
        "rescale_betas_zero_snr": ON_OFF,
    },
    "EulerAncestralDiscreteScheduler": {"rescale_betas_zero_snr": ON_OFF},
    "DPMSolverMultistepScheduler": {
        "solver_order": (1, 2),
        "solver_type": ("midpoint", "heun"),
        "use_karras_sigmas": ON_OFF,
        "final_sigmas_type": ("zero", "sigma_min"),
        "euler_at_final": ON_OFF,
        "lower_order_final": ON_OFF,
        "rescale_betas_zero_snr": ON_OFF,
    },
}
STOCHASTIC = ("DDPMScheduler", "EulerAncestralDiscreteScheduler")
NO_SAMPLE = ("PNDMScheduler", "EulerAncestralDiscreteScheduler")  # in diffusers
SHARED = {
    "beta_schedule": ("scaled_linear", "linear"),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "steps_offset": (0, 1),
}


def sensible(name: str, settings: dict[str, Any]) -> bool:
    """Whether diffusers computes this combination."""
    karras_to_the_end = (
        settings.get("use_karras_sigmas")
        and settings.get("final_sigmas_type") == "sigma_min"
        and settings.get("solver_type") == "heun"
    )
    return not (
        (
            settings.get("rescale_betas_zero_snr")
            and "eps" in settings["prediction_type"]
        )
        or (name in NO_SAMPLE and settings["prediction_type"] == "sample")
        or karras_to_the_end  # the last step has no length: 0 / 0 there
    )


def combinations(name: str, count: int) -> list[dict[str, Any]]:
    """Seeded random settings of a sampler."""
    choices, rng = SHARED | OWN[name], random.Random(name)
    found: list[dict[str, Any]] = []
    while len(found) < count:
        settings = {key: rng.choice(values) for key, values in choices.items()}
        if sensible(name, settings) and settings not in found:
            found.append(settings)
    return found


def network(x: Tensor, _: Any) -> Tensor:
    """Anything nonlinear."""
    return 0.8 * torch.tanh(0.7 * x + 0.3 * torch.sin(3 * x))


def first_sample() -> Tensor:
    """The dummy sample of diffusers' own tests: (4, 3, 8, 8)."""
    flat = torch.arange(768).reshape(3, 8, 8, 4) / 768
    return flat.permute(3, 0, 1, 2)


def run(scheduler: Any, steps: int, name: str, begin: int = 0, net=network) -> list:
    """All samples of a run; from the middle of it, if `begin` says so."""
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    generator = {"generator": torch.Generator().manual_seed(0)}
    x, timesteps = first_sample(), scheduler.timesteps[begin:]
    if begin:
        x = scheduler.add_noise(x, 0.3 + 0 * x, timesteps[:1].repeat(len(x)))
    else:
        x = x * scheduler.init_noise_sigma
    seen = []
    for t in timesteps:
        said = net(scheduler.scale_model_input(x, t), t)
        kwargs = generator if name in STOCHASTIC else {}
        x = scheduler.step(said, t, x, **kwargs).prev_sample
        seen.append(x)
    return seen


@pytest.mark.parametrize("name", OWN)
def test_every_step_equals_diffusers(name: str) -> None:
    rng = random.Random(1)
    for settings in combinations(name, 16):
        theirs = {**SD_SCHEDULE, **settings}
        for steps in rng.sample([1, 2, 3, 5, 9, 10, 20, 27], 2):
            begin = rng.choice((0, steps // 3))
            if not settings.get("skip_prk_steps", True) and (steps < 4 or begin):
                continue
            expected = run(getattr(diffusers, name)(**theirs), steps, name, begin)
            got = run(getattr(schedulers, name)(**theirs), steps, name, begin)
            assert len(got) == len(expected)
            for ours, peer in zip(got, expected, strict=True):
                size = max(1.0, peer.abs().max().item())
                error = (ours - peer).abs().max().item() / size
                assert error < 1e-4, (settings, steps, begin)


@pytest.mark.parametrize("name", OWN)
def test_timesteps_equal_diffusers(name: str) -> None:
    """27 steps once crashed PNDM; 3, 9 and 27 do not divide 1000."""
    for settings in combinations(name, 12):
        kwargs = {**SD_SCHEDULE, **settings}
        theirs, ours = (
            getattr(diffusers, name)(**kwargs),
            getattr(schedulers, name)(**kwargs),
        )
        for steps in (4, 9, 27, 50, 999):
            theirs.set_timesteps(steps)
            ours.set_timesteps(steps)
            assert ours.timesteps.tolist() == pytest.approx(
                theirs.timesteps.tolist(), abs=1e-3
            )


PUBLISHED = {
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "steps_offset": 0,
}


def shrinking(x: Tensor, t: Any) -> Tensor:
    """The dummy model of diffusers' own tests."""
    return x * float(t) / (float(t) + 1)


def sum_and_mean(scheduler: Any, steps: int, name: str) -> tuple[float, float]:
    last = run(scheduler, steps, name, net=shrinking)[-1].abs()
    return last.sum().item(), last.mean().item()


# The sums that diffusers' own tests hold to: tests/schedulers/test_scheduler_*.py.
@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("DDIMScheduler", {"clip_sample": True}, (172.0067, 0.223967)),
        (
            "DDIMScheduler",
            {"clip_sample": True, "prediction_type": "v_prediction"},
            (52.5302, 0.0684),
        ),
        ("PNDMScheduler", {"skip_prk_steps": False}, (198.1318, 0.2580)),
        ("DPMSolverMultistepScheduler", {}, (None, 0.3301)),
        (
            "DPMSolverMultistepScheduler",
            {"prediction_type": "v_prediction"},
            (None, 0.2251),
        ),
    ],
)
def test_published_sums(name: str, settings: dict, expected: tuple) -> None:
    settings = PUBLISHED | settings
    if name == "DDIMScheduler":
        settings["set_alpha_to_one"] = True
    if name.startswith("DPM"):
        settings |= {"final_sigmas_type": "sigma_min", "lower_order_final": False}
    total, mean = sum_and_mean(getattr(schedulers, name)(**settings), 10, name)
    assert expected[0] is None or total == pytest.approx(expected[0], abs=1e-2)
    assert mean == pytest.approx(expected[1], abs=1e-3)


def test_published_sum_of_ddpm_over_all_steps() -> None:
    scheduler = schedulers.DDPMScheduler(clip_sample=True, **PUBLISHED)
    generator = torch.Generator().manual_seed(0)
    x = first_sample()
    for t in reversed(range(1000)):
        x = scheduler.step(shrinking(x, t), t, x, generator=generator).prev_sample
    assert x.abs().sum().item() == pytest.approx(258.9606, abs=1e-2)
    assert x.abs().mean().item() == pytest.approx(0.3372, abs=1e-3)
    assert scheduler.variance(487).item() == pytest.approx(0.00979, abs=1e-5)
    assert scheduler.variance(999).item() == pytest.approx(0.02, abs=1e-5)


def test_published_timesteps() -> None:
    ddim = schedulers.DDIMScheduler(**PUBLISHED | {"steps_offset": 1})
    ddim.set_timesteps(5)
    assert ddim.timesteps.tolist() == [801, 601, 401, 201, 1]
    pndm = schedulers.PNDMScheduler(
        skip_prk_steps=False, **PUBLISHED | {"steps_offset": 1}
    )
    pndm.set_timesteps(10)
    pairs = [901, *(851, 851, 801, 801, 751, 751, 701, 701, 651, 651, 601)]
    assert pndm.timesteps.tolist() == [*pairs, 601, 501, 401, 301, 201, 101, 1]


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noise_schedule_in_float64(schedule: str) -> None:
    """By numpy; the index of ᾱ counts the steps up to and with this one."""
    scheduler = schedulers.DDPMScheduler(beta_schedule=schedule)
    if schedule == "squaredcos_cap_v2":
        t = np.arange(1001) / 1000
        bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    elif schedule == "linear":
        betas = np.linspace(0.00085, 0.012, 1000)
    else:
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    expected = np.cumprod(1 - betas)
    assert scheduler.alphas_cumprod.numpy() == pytest.approx(expected, rel=1e-4)
    assert scheduler.alphas_cumprod[0].item() == pytest.approx(1 - betas[0], rel=1e-6)


def test_add_noise_at_the_ends_of_the_schedule() -> None:
    scheduler = schedulers.DDPMScheduler()
    x, noise = torch.ones(2, 1), torch.zeros(2, 1)
    mixed = scheduler.add_noise(x, noise, torch.tensor([0, 999]))
    assert mixed[0].item() == pytest.approx((1 - 0.00085) ** 0.5, abs=1e-6)
    assert mixed[1].item() == pytest.approx(0.0683, abs=1e-4)


def test_zero_terminal_snr_keeps_the_first_step_and_empties_the_last() -> None:
    betas = make_betas(1000, 0.00085, 0.012, "scaled_linear")
    root = (1 - rescale_zero_terminal_snr(betas)).cumprod(0).sqrt()
    assert root[-1] == 0
    assert root[0].item() == pytest.approx((1 - 0.00085) ** 0.5, abs=1e-6)
    theirs = diffusers.DDIMScheduler(
        **SD_SCHEDULE, rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    assert (root - theirs.alphas_cumprod.sqrt()).abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_picture_and_noise_out_of_every_kind_of_prediction(kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 50, generator=g, dtype=torch.float64)
    alpha, sigma = torch.tensor(0.6), torch.tensor(0.8)
    said = {"epsilon": noise, "sample": x0, "v_prediction": 0.6 * noise - 0.8 * x0}
    x = 0.6 * x0 + 0.8 * noise
    assert torch.allclose(to_original(kind, said[kind], x, alpha, sigma), x0)
    assert torch.allclose(to_noise(kind, said[kind], x, alpha, sigma), noise)


def test_velocity_equals_diffusers() -> None:
    x, noise, t = (
        first_sample(),
        torch.randn(4, 3, 8, 8),
        torch.tensor([0, 5, 500, 999]),
    )
    expected = diffusers.DDPMScheduler(**SD_SCHEDULE).get_velocity(x, noise, t)
    assert torch.allclose(
        schedulers.DDPMScheduler().get_velocity(x, noise, t), expected, atol=1e-6
    )


@pytest.mark.parametrize("name", OWN)
def test_noise_for_training_equals_diffusers(name: str) -> None:
    """Any step may be asked for, before `set_timesteps` chooses some."""
    # diffusers' DPM-Solver reads its σ backwards then; DDPM's samples are the same.
    peer = name if name != "DPMSolverMultistepScheduler" else "DDPMScheduler"
    theirs = getattr(diffusers, peer)(**SD_SCHEDULE)
    ours = getattr(schedulers, name)(**SD_SCHEDULE)
    noise = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0, 5, 500, 999])
    torch.testing.assert_close(
        ours.add_noise(first_sample(), noise, times),
        theirs.add_noise(first_sample(), noise, times),
    )
    assert float(ours.init_noise_sigma) == pytest.approx(float(theirs.init_noise_sigma))


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_noise_equals_diffusers(eta: float) -> None:
    theirs, ours = (
        diffusers.DDIMScheduler(
            **SD_SCHEDULE, clip_sample=False, set_alpha_to_one=False
        ),
        schedulers.DDIMScheduler(),
    )
    x = first_sample()
    for each in (theirs, ours):
        each.set_timesteps(20)
    for t in ours.timesteps[:5]:
        said = network(x, t)
        kwargs = [
            {"eta": eta, "generator": torch.Generator().manual_seed(int(t))}
            for _ in range(2)
        ]
        expected = theirs.step(said, t, x, **kwargs[0]).prev_sample
        x = ours.step(said, t, x, **kwargs[1]).prev_sample
        assert (x - expected).abs().max() < 1e-5


def test_a_reverse_step_undoes_a_step_of_the_same_prediction() -> None:
    ours = schedulers.DDIMScheduler()
    ours.set_timesteps(20)
    x, said = first_sample(), 0.1 + 0 * first_sample()
    for t in ours.timesteps[:-1]:
        there = ours.step(said, t, x).prev_sample
        assert (ours.reverse_step(said, t, there).prev_sample - x).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("DDPMScheduler", {"variance_type": "learned"}, "variance_type: got 'learned'"),
        (
            "PNDMScheduler",
            {"prediction_type": "sample"},
            "prediction_type: got 'sample'",
        ),
        (
            "EulerDiscreteScheduler",
            {"final_sigmas_type": "one"},
            "final_sigmas_type: got 'one'",
        ),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}, "solver_order: got 3"),
        (
            "DPMSolverMultistepScheduler",
            {"solver_type": "bh1"},
            "solver_type: got 'bh1'",
        ),
        (
            "DPMSolverMultistepScheduler",
            {"final_sigmas_type": "one"},
            "final_sigmas_type: got 'one'",
        ),
    ],
)
def test_settings_of_one_sampler_are_refused(name, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(schedulers, name)(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta_schedule": "cosine"}, "beta_schedule: got 'cosine'"),
        ({"prediction_type": "noise"}, "prediction_type: got 'noise'"),
        ({"timestep_spacing": "even"}, "timestep_spacing: got 'even'"),
        ({"num_train_timesteps": 0}, "num_train_timesteps: got 0"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr: got True"),
        ({"thresholding": True}, "thresholding: got True; allowed here: False"),
    ],
)
def test_schedulers_refuse(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedulers.DDIMScheduler.from_config(settings)


def test_runs_refuse_too_many_steps_or_none() -> None:
    scheduler = schedulers.EulerDiscreteScheduler()
    with pytest.raises(RuntimeError, match="set_timesteps"):
        scheduler.step(torch.ones(1), 5, torch.ones(1))
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"num_inference_steps: got {steps}"):
            scheduler.set_timesteps(steps)
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="timestep: got 5; it is not among"):
        scheduler.step(torch.ones(1), 5, torch.ones(1))


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler"])
def test_a_run_of_all_steps_begins_at_one_that_there_is(name: str) -> None:
    """diffusers asks for a step 100 of 0 to 99 here, and ends in an IndexError."""

    def kind(**settings: Any) -> Any:
        return getattr(schedulers, name)(num_train_timesteps=100, **settings)

    with pytest.raises(ValueError, match="num_inference_steps: got 100; with spacing"):
        kind().set_timesteps(100)
    for settings in ({"steps_offset": 0}, {"timestep_spacing": "trailing"}):
        last = run(kind(**settings), 100, name)[-1]
        assert last.isfinite().all(), settings


@pytest.mark.parametrize(("spacing", "steps"), [("linspace", 100), ("leading", 99)])
def test_steps_without_length_are_refused(spacing: str, steps: int) -> None:
    """At order 2 the slope between two equal σ is 0 / 0; at order 1 none is needed."""
    name = "DPMSolverMultistepScheduler"

    def kind(spacing: str, **settings: Any) -> Any:
        settings |= {"num_train_timesteps": 100, "timestep_spacing": spacing}
        return getattr(schedulers, name)(**settings)

    with pytest.raises(ValueError, match=f"num_inference_steps: got {steps}; two"):
        kind(spacing).set_timesteps(steps)
    assert run(kind(spacing, solver_order=1), steps, name)[-1].isfinite().all()
    trailing = kind("trailing")
    assert run(trailing, steps, name)[-1].isfinite().all()


@pytest.mark.parametrize("eta", [-1.0, 1.2, float("nan")])
def test_ddim_refuses_noise_that_it_cannot_take_away(eta: float) -> None:
    scheduler = schedulers.DDIMScheduler()
    scheduler.set_timesteps(10)
    x = first_sample()
    with pytest.raises(ValueError, match=f"eta: got {eta}; allowed: 0 to 1"):
        scheduler.step(x, 901, x, eta=eta)


def test_a_configuration_changes_its_class() -> None:
    """As users swap samplers: what was not said takes the new class's default."""
    pndm = schedulers.PNDMScheduler(prediction_type="v_prediction", beta_end=0.02)
    euler = schedulers.EulerDiscreteScheduler.from_config(pndm.config)
    assert euler.prediction_type == "v_prediction" and euler.spacing == "linspace"
    assert torch.equal(euler.alphas_cumprod, pndm.alphas_cumprod)
