"""Master weights, accumulators, the training loop, the memory ledger."""

from __future__ import annotations

import copy
import ctypes
import functools
import gc
import math
import operator
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underhood.mixed_precision import (
    BF16,
    FP16,
    FP32,
    LEDGERS,
    KahanSummation,
    LossScaler,
    MasterWeights,
    Network,
    Recipe,
    StochasticRounding,
    accumulate,
    accuracy,
    all_gradients,
    held_bytes,
    kahan_sum,
    linear_with_accumulator,
    load_digits,
    matmul_with_accumulator,
    pretrained,
    round_to_nearest,
    saved_bytes,
    stochastic_bfloat16,
    train,
    train_step,
    training_bytes,
)

HALF, BRAIN = torch.float16, torch.bfloat16


def test_accumulate_is_numpys_half_addition() -> None:
    terms = np.random.default_rng(0).random((3, 300)).astype(np.float16)
    theirs = np.add.accumulate(terms, axis=1, dtype=np.float16)[:, -1]
    assert np.array_equal(accumulate(terms, FP16), theirs.astype(float))
    single = np.add.accumulate(terms, axis=1, dtype=np.float32)[:, -1]
    assert np.array_equal(accumulate(terms, FP32), single.astype(float))


def test_chunks_are_sums_of_sums() -> None:
    terms = np.ones(2200)
    assert accumulate(terms, FP16) == 2048
    assert accumulate(terms, FP16, chunk=129) == 2200  # over 2193, odd: not in FP16
    assert accumulate([2048, 1, 1, 1, 1, 1], FP16, chunk=3) == 2048 + 3
    with pytest.raises(ValueError, match="chunk: got 0"):
        accumulate(terms, FP16, chunk=0)


def test_kahan_sum() -> None:
    terms = FP16.round(np.full(1500, 0.1))
    exact = math.fsum(terms)
    assert abs(kahan_sum(terms, FP16) - exact) <= FP16.spacing(exact)
    assert abs(accumulate(terms, FP16) - exact) > 5 * FP16.spacing(exact)


@pytest.mark.parametrize("dtype", [HALF, BRAIN])
def test_single_accumulator_is_exact_product_rounded(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(9, 70, generator=generator).to(dtype)
    b = torch.randn(70, 5, generator=generator).to(dtype)
    exact = (a.double() @ b.double()).to(dtype)
    ours = matmul_with_accumulator(a, b, torch.float32)
    assert (ours == exact).float().mean() > 0.95  # a tie may fall the other way
    assert torch.allclose(ours.float(), exact.float(), rtol=2 * torch.finfo(dtype).eps)
    assert torch.equal(ours, a @ b) or torch.allclose(ours, a @ b, rtol=0.01)


def test_half_accumulator_is_numpys_loop() -> None:
    random = np.random.default_rng(0)
    a, b = random.random((3, 40)), random.random((40, 2))
    a, b = a.astype(np.float16), b.astype(np.float16)
    total = np.zeros((3, 2), np.float16)
    for k in range(40):
        product = np.outer(a[:, k].astype(np.float32), b[k].astype(np.float32))
        total = (total.astype(np.float32) + product).astype(np.float16)
    ours = matmul_with_accumulator(torch.tensor(a), torch.tensor(b), HALF)
    assert np.array_equal(ours.numpy(), total)
    with pytest.raises(ValueError, match="step: got 0"):
        matmul_with_accumulator(torch.tensor(a), torch.tensor(b), HALF, 0)
    with pytest.raises(ValueError, match="a, b: got shapes"):
        matmul_with_accumulator(torch.tensor(a), torch.tensor(b[:39]), HALF)


def test_gradients_of_the_emulated_layer() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(6, 40), torch.randn(3, 40)
    grads = []
    for double in (False, True):
        leaves = [(t.half().double() if double else t.half()) for t in (x, w)]
        leaves = [t.requires_grad_() for t in leaves]
        out = F.linear(*leaves) if double else linear_with_accumulator(*leaves, HALF)
        (out * out.detach()).sum().backward()
        grads.append([t.grad.double() for t in leaves])
    for ours, exact in zip(*grads, strict=True):
        assert (ours - exact).abs().max() < 0.01 * exact.abs().max()


def plain(network: Network) -> nn.Sequential:
    """The same layers as PyTorch's own modules."""
    pieces = [m for layer in network.layers for m in (layer, nn.ReLU())]
    return nn.Sequential(*pieces[:-1])


@pytest.mark.parametrize(
    ("dtype", "accumulator"),
    [(HALF, torch.float32), (HALF, HALF), (BRAIN, torch.float32)],
)
def test_network_is_that_of_torch_in_16_bits(
    dtype: torch.dtype, accumulator: torch.dtype
) -> None:
    """Emulated products against PyTorch's own 16-bit modules, values and gradients."""
    torch.manual_seed(0)
    ours = Network(32).to(dtype)
    x = torch.rand(20, 64).to(dtype)
    grads = []
    for model in (functools.partial(ours, accumulator=accumulator), plain(ours)):
        ours.zero_grad()
        out = model(x)
        out.float().square().sum().backward()
        grads.append([out, *(p.grad.clone() for p in ours.parameters())])
    for mine, theirs in zip(*grads, strict=True):
        assert mine.dtype == theirs.dtype == dtype
        bound = 4 * torch.finfo(dtype).eps * theirs.abs().max().item()
        assert (mine.float() - theirs.float()).abs().max().item() <= bound


def test_accumulator_of_a_network_is_rounded_after_16_products() -> None:
    """Above 2048 the spacing of FP16 is 2: one by one, three ones are lost."""
    network = Network(1).half()
    for parameter in network.parameters():
        nn.init.constant_(parameter, float(parameter.ndim == 2))
    image = torch.zeros(1, 64).half()
    image[0, 0], image[0, 16::16] = 2048, 1
    assert network(image).tolist() == [[2052] * 10]
    assert network(image, HALF).tolist() == [[2048] * 10]


def test_master_weights_keep_what_half_loses() -> None:
    weight = nn.Parameter(torch.ones(1).half())
    masters = MasterWeights([weight], lambda p: torch.optim.SGD(p, lr=1.0))
    for _ in range(100):
        weight.grad = torch.full((1,), 1e-4).half()
        masters.optimizer.zero_grad()
        masters.take_gradients()
        masters.optimizer.step()
        masters.give_weights()
    assert weight.dtype == HALF and weight.grad is None
    assert masters.masters[0].item() == pytest.approx(0.99, rel=1e-4)
    assert weight.item() == float(np.float16(masters.masters[0].item()))
    masters.forget()
    assert masters.masters[0].item() == weight.item()
    with pytest.raises(TypeError, match=r"got torch\.float64"):
        MasterWeights([torch.ones(1).double()], torch.optim.SGD)


def test_gradients_of_parts_of_a_batch_add_up_in_float32() -> None:
    weight = nn.Parameter(torch.ones(1).half())
    unused = nn.Parameter(torch.ones(1).half())
    masters = MasterWeights([weight, unused], lambda p: torch.optim.SGD(p, lr=1.0))
    for part in (2048.0, 1.0, 1.0):  # in FP16 the sum would stay 2048
        weight.grad = torch.tensor([part]).half()
        masters.take_gradients()
    assert masters.masters[0].grad == 2050
    assert masters.masters[1].grad is None


def test_masters_are_copies_even_of_float32() -> None:
    weight = nn.Parameter(torch.ones(2))
    masters = MasterWeights([weight], lambda p: torch.optim.SGD(p, lr=1.0))
    masters.masters[0].data += 1
    assert weight.tolist() == [1, 1]


def test_stochastic_bfloat16_against_the_format() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, generator=generator) * 10 ** torch.linspace(-20, 20, 64)
    rounded = torch.stack([stochastic_bfloat16(x, generator) for _ in range(4000)])
    assert rounded.dtype == BRAIN
    step = torch.tensor(BF16.spacing(x.numpy()))
    low = torch.tensor(BF16.round(x.numpy(), "toward_zero"))
    away = low + step * x.sign()
    seen = rounded.double()
    assert ((seen == low) | (seen == away)).all()
    assert ((seen.mean(0) - x).abs() < 5 * step / math.sqrt(4000)).all()
    exact = x.bfloat16().float()
    assert torch.equal(stochastic_bfloat16(exact, generator).float(), exact)
    with pytest.raises(TypeError, match="x: got"):
        stochastic_bfloat16(x.half(), generator)


def test_three_ways_to_add_a_small_update() -> None:
    step = torch.full((256,), -1e-3)
    ends = {}
    for add in (round_to_nearest, StochasticRounding(0), KahanSummation()):
        weight = torch.ones(256).bfloat16()
        assert torch.equal(add(weight, -weight / 4), 0.75 * weight)  # fits exactly
        for _ in range(500):
            weight = add(weight, step)
        ends[type(add).__name__] = weight.float().mean().item()
    assert ends["function"] == 1.0
    assert ends["StochasticRounding"] == pytest.approx(0.5, abs=0.02)
    assert ends["KahanSummation"] == pytest.approx(0.5, abs=0.004)


def test_one_step_is_that_of_a_plain_loop() -> None:
    """FP32 recipe: the same losses and weights as the textbook loop of PyTorch."""
    digits = load_digits()
    torch.manual_seed(3)
    start = Network(16)
    run = train(Recipe(), start, digits, steps=5, learning_rate=1e-2, batch_size=32)
    theirs = plain(start)
    optimizer = torch.optim.Adam(theirs.parameters(), 1e-2)
    draw = torch.Generator().manual_seed(1)
    for loss in run.losses:
        chosen = torch.randint(1437, (32,), generator=draw)
        wanted = F.cross_entropy(
            theirs(digits.train_images[chosen]), digits.train_labels[chosen]
        )
        optimizer.zero_grad()
        wanted.backward()
        optimizer.step()
        assert loss == pytest.approx(wanted.item(), rel=1e-4)
    for ours, other in zip(run.network.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(ours, other, rtol=1e-3, atol=1e-5)
    right = theirs(digits.test_images).argmax(1) == digits.test_labels
    assert run.accuracy == pytest.approx(right.sum().item() / 360)
    assert (run.scales, run.skipped) == ([1.0] * 5, [])


def test_overflowing_step_is_skipped_and_all_stays() -> None:
    digits = load_digits()
    torch.manual_seed(0)
    network = Network(16).half()
    masters = MasterWeights(network.parameters(), torch.optim.Adam)
    batch = digits.train_images[:64], digits.train_labels[:64]
    scaler = LossScaler(2.0**40)
    before = [p.clone() for p in network.parameters()]
    _, taken = train_step(network, masters, scaler, batch, 64)
    assert not taken and scaler.loss_scale == 2.0**39
    assert not masters.optimizer.state
    for old, new in zip(before, network.parameters(), strict=True):
        assert torch.equal(old, new)
    assert train_step(network, masters, LossScaler(8.0), batch, 64)[1]


def flat(network: Network) -> Tensor:
    return torch.cat([p.detach().float().flatten() for p in network.parameters()])


def test_a_run_counts_its_skipped_steps() -> None:
    torch.manual_seed(0)
    start = Network(16)
    recipe = Recipe(HALF, scaler=lambda: LossScaler(2.0**40))
    run = train(recipe, start, load_digits(), steps=3, learning_rate=0.1)
    assert run.scales == [2.0**40, 2.0**39, 2.0**38]
    assert run.skipped == [0, 1, 2]
    assert torch.equal(flat(run.network), flat(start.half()))


def test_a_divisor_too_large_for_half_needs_the_scale() -> None:
    """What is below 2**-25 is 0 in FP16: here the gradient of every logit."""
    torch.manual_seed(0)
    start, digits = Network(16), load_digits()

    def moved(scale: float, divisor: float | None) -> bool:
        recipe = Recipe(HALF, scaler=lambda: LossScaler(scale, dynamic=False))
        run = train(recipe, start, digits, steps=1, learning_rate=0.1, divisor=divisor)
        return not torch.equal(flat(run.network), flat(copy.deepcopy(start).half()))

    assert moved(1.0, None)
    assert not moved(1.0, 2.0**30)
    assert moved(2.0**20, 2.0**30)


def test_what_becomes_of_updates_below_the_spacing() -> None:
    """Share of the FP32 run's movement that weights far larger than it make."""
    torch.manual_seed(3)
    start, digits = Network(16).bfloat16().float(), load_digits()
    large = flat(start).abs() > 0.06

    def movement(recipe: Recipe) -> Tensor:
        run = train(recipe, start, digits, steps=8, learning_rate=1e-4, batch_size=64)
        return (flat(run.network) - flat(start))[large]

    exact = movement(Recipe())
    share = {
        (master, stochastic): (
            movement(Recipe(BRAIN, master, stochastic=stochastic))
            @ exact
            / exact.square().sum()
        ).item()
        for master in (True, False)
        for stochastic in (True, False)
    }
    assert share.pop((False, False)) == 0
    assert share == pytest.approx(dict.fromkeys(share, 1), abs=0.1)


def test_accuracy_by_counting() -> None:
    digits = load_digits()
    network = pretrained(digits, steps=30)
    named = [plain(network)(image).argmax().item() for image in digits.test_images]
    right = sum(map(operator.eq, named, digits.test_labels.tolist()))
    assert 0.8 < right / 360 < 1
    assert accuracy(network, digits) == pytest.approx(right / 360)
    assert accuracy(network.half(), digits) == pytest.approx(right / 360, abs=0.01)


def test_all_gradients_are_those_of_plain_modules() -> None:
    torch.manual_seed(0)
    network = Network(32)
    x, labels = torch.randn(20, 64), torch.arange(20) % 10
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)  # of an earlier pass
    found = all_gradients(network, (x, labels), 20)
    assert all(parameter.grad is None for parameter in network.parameters())
    outputs = []
    for module in plain(network):
        x = module(x)
        if isinstance(module, nn.Linear):
            x.retain_grad()
            outputs.append(x)
    F.cross_entropy(x, labels).backward()
    wanted = {"activations": outputs, "weights": network.parameters()}
    assert found.keys() == wanted.keys()
    for kind, tensors in wanted.items():
        theirs = torch.cat([each.grad.flatten() for each in tensors])
        assert torch.allclose(found[kind], theirs, rtol=1e-4, atol=1e-7), kind


def test_digits() -> None:
    digits = load_digits()
    assert digits.train_images.shape == (1437, 64)
    assert digits.test_images.shape == (360, 64)
    assert digits.train_images.min() == 0 and digits.train_images.max() == 1
    one = digits.shifted().train_images.view(-1, 8, 8)
    assert torch.equal(one[:, :, 1:], digits.train_images.view(-1, 8, 8)[:, :, :-1])
    assert not one[:, :, 0].any()


class Wide(nn.Module):
    """One matrix: its gradients and moments are all that is allocated."""

    def __init__(self, side: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((side, side), 0.01, dtype=dtype))


def one_adam_step(
    side: int, dtype: torch.dtype, master: bool
) -> tuple[Wide, torch.optim.Optimizer, MasterWeights | None]:
    model = Wide(side, dtype)
    masters = MasterWeights(model.parameters(), torch.optim.Adam) if master else None
    optimizer = masters.optimizer if masters else torch.optim.Adam(model.parameters())
    model.weight.grad = torch.full_like(model.weight, 0.01)
    if masters:
        masters.take_gradients()
    optimizer.step()
    if masters:
        masters.give_weights()
    return model, optimizer, masters


CASES = [
    ("FP32", torch.float32, False),
    ("master, FP32 gradients", HALF, True),
    ("BF16 throughout", BRAIN, False),
]


@pytest.mark.parametrize(("name", "dtype", "master"), CASES)
def test_ledger_is_what_was_allocated(
    name: str, dtype: torch.dtype, master: bool
) -> None:
    made = one_adam_step(300, dtype, master)
    ledger = LEDGERS[name]
    found = {kind: size / 300**2 for kind, size in training_bytes(*made).items()}
    assert found == {kind: getattr(ledger, kind) for kind in found}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("name", "dtype", "master"), CASES)
def test_ledger_is_what_the_system_lent(
    name: str, dtype: torch.dtype, master: bool
) -> None:
    """Resident memory of the process, by the kernel's own count."""

    def resident() -> int:
        gc.collect()
        # glibc keeps up to 64 MiB of what was freed, and would lend it once more.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)(0)
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    side = 4200  # so large that what is freed goes back to the system
    one_adam_step(64, dtype, master)  # what loads on first use
    before = resident()
    made = one_adam_step(side, dtype, master)
    per_parameter = (resident() - before) / side**2
    assert per_parameter == pytest.approx(LEDGERS[name].total, abs=1.0)
    assert made[0].weight.numel() == side**2


def test_bytes_per_parameter_as_the_papers_count_them() -> None:
    assert LEDGERS["master, FP16 gradients"].total == 16  # arXiv:1910.02054, 3.1
    assert LEDGERS["8-bit Adam, FP32 weights"].total == 10  # moments: 2, not 8
    assert LEDGERS["BF16 with Kahan"].total == LEDGERS["BF16 throughout"].total + 2


def test_held_bytes_counts_a_storage_once() -> None:
    x = torch.zeros(100)
    assert held_bytes([x, x[10:], None, torch.zeros(3)]) == 400 + 12


def test_saved_bytes_halve_with_the_dtype() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32, bias=False), nn.Sigmoid())
    x = torch.rand(1000, 32)
    single = saved_bytes(lambda: model(x), model.parameters())
    assert single == 2 * 1000 * 32 * 4  # the input, and the output of the sigmoid
    half, low = model.half(), x.half()
    assert saved_bytes(lambda: half(low), half.parameters()) == single // 2
    assert saved_bytes(lambda: half(low)) >= single // 2
