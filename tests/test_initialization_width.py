"""initialization: parametrizations of the width, held to the package `mup`."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from underhood.initialization import (
    LAYERS,
    PARAMETRIZATIONS,
    Adam,
    Scaling,
    coordinate_check,
    draw,
    forward,
    scalings,
    train_together,
    valley,
    width_sweep,
)

mup = pytest.importorskip("mup")

IN, BASE, OUT = 20, 64, 10


class Reference(nn.Module):
    """20 → width → width → 10 as a user of `mup` would write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input = nn.Linear(IN, width, bias=False)
        self.hidden = nn.Linear(width, width, bias=False)
        self.output = mup.MuReadout(width, OUT, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.input, self.hidden):
            x = 2**0.5 * F.relu(layer(x))
        return self.output(x)


def reference(width: int) -> Reference:
    model = Reference(width)
    mup.set_base_shapes(model, Reference(BASE), delta=Reference(2 * BASE))
    return model


def gaussian(*shape: int, seed: int = 100) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The groups and multipliers of mup.


def test_mup_itself_by_its_known_numbers() -> None:
    model = reference(256)
    weights = (model.input.weight, model.hidden.weight, model.output.weight)
    assert [w.infshape.width_mult() for w in weights] == [4, 4, 4]
    assert [w.infshape.ninf() for w in weights] == [1, 2, 1]
    rates = {
        g["lr"]: sum(p.numel() for p in g["params"])
        for g in mup.MuAdam(model.parameters(), lr=0.01).param_groups
    }
    assert rates[0.0025] == 65_536


@pytest.mark.parametrize("width", [16, 64, 128, 256, 1024])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_learning_rates_are_those_of_mup(optimizer: str, width: int) -> None:
    model = reference(width)
    groups = {"adam": mup.MuAdam, "sgd": mup.MuSGD}[optimizer](
        model.parameters(), lr=1.0
    ).param_groups
    theirs = {id(p): g["lr"] for g in groups for p in g["params"]}
    ours = scalings("mup", optimizer, width, BASE, IN)
    for name in LAYERS:
        weight = getattr(model, name).weight
        assert ours[name].rate == pytest.approx(theirs[id(weight)]), name


@pytest.mark.parametrize("width", [64, 256, 1024])
def test_multiplier_and_deviation_of_the_output_are_those_of_mup(width: int) -> None:
    torch.manual_seed(0)
    model = reference(width)
    ours = scalings("mup", "adam", width, BASE, IN)
    assert ours["output"].multiplier == 1 / model.output.width_mult()
    # mup keeps torch's default at the base, U(±1/√base): times √3 it is ours.
    assert model.output.weight.std().item() * 3**0.5 == pytest.approx(
        ours["output"].std, rel=0.05
    )
    hidden = model.hidden.weight.std().item() * 3**0.5
    assert hidden == pytest.approx(ours["hidden"].std, rel=0.05)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_training_is_that_of_mup_step_by_step(optimizer: str) -> None:
    width, rate = 128, 0.01
    model = reference(width)
    scaling = scalings("mup", optimizer, width, BASE, IN)
    parameters = draw(scaling, width, IN, OUT)
    with torch.no_grad():
        for name in LAYERS:
            getattr(model, name).weight.copy_(parameters[name])
    theirs = {"adam": mup.MuAdam, "sgd": mup.MuSGD}[optimizer](
        model.parameters(), lr=rate
    )
    ours = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer](
        [
            {
                "params": parameters[name].requires_grad_(),
                "lr": rate * scaling[name].rate,
            }
            for name in LAYERS
        ]
    )
    x, labels = gaussian(30, IN, seed=1), torch.arange(30) % OUT
    for _ in range(4):
        outputs = [forward(parameters, scaling, x)["output"], model(x)]
        assert torch.allclose(*outputs, atol=1e-4)
        for out, optim in zip(outputs, (ours, theirs), strict=True):
            optim.zero_grad()
            F.cross_entropy(out, labels).backward()
            optim.step()


# One training, many spellings.


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_all_agree_at_the_base_width(name: str, optimizer: str) -> None:
    assert scalings(name, optimizer, 64, 64, IN) == scalings(
        "sp", optimizer, 64, 64, IN
    )


def test_sp_is_lecun() -> None:
    layers = scalings("sp", "adam", 256, 64, IN)
    assert [layers[n].std for n in LAYERS] == pytest.approx(
        [IN**-0.5, 256**-0.5, 256**-0.5]
    )
    assert {(s.multiplier, s.rate) for s in layers.values()} == {(1, 1)}


def test_ntk_draws_alike_at_every_width() -> None:
    wide, narrow = (scalings("ntk", "sgd", w, 64, IN) for w in (1024, 64))
    assert {n: wide[n].std for n in LAYERS} == {n: narrow[n].std for n in LAYERS}
    assert wide["hidden"].multiplier == pytest.approx((1024 / 64) ** -0.5)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("theta", [0.25, 3.0])
def test_a_shift_of_multiplier_and_weight_changes_nothing(
    optimizer: str, theta: float
) -> None:
    plain = scalings("mup", optimizer, 48, 16, IN)
    shifted = {name: s.shifted(theta, optimizer) for name, s in plain.items()}
    x, labels = gaussian(30, IN, seed=1).double(), torch.arange(30) % OUT
    outputs = []
    for scaling, scale in ((plain, 1.0), (shifted, 1 / theta)):
        weights = {n: scale * w.double() for n, w in draw(plain, 48, IN, OUT).items()}
        groups = [
            {"params": weights[n].requires_grad_(), "lr": 0.01 * scaling[n].rate}
            for n in LAYERS
        ]
        step = (
            torch.optim.SGD(groups)
            if optimizer == "sgd"
            else torch.optim.Adam(groups, eps=1e-30)
        )
        for _ in range(3):
            step.zero_grad()
            loss = F.cross_entropy(forward(weights, scaling, x)["output"], labels)
            loss.backward()
            step.step()
        outputs.append(forward(weights, scaling, x)["output"].detach())
    assert torch.allclose(*outputs, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("μP", "adam", 64, 64, IN), "parametrization: got 'μP', allowed are sp, ntk"),
        (("sp", "lion", 64, 64, IN), "optimizer: got 'lion', allowed are sgd, adam"),
        (("sp", "adam", 0, 64, IN), "width, base_width, in_features: got 0, 64, 20"),
        (("sp", "adam", 64, 64, 0), "width, base_width, in_features: got 64, 64, 0"),
    ],
)
def test_bad_input_is_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scalings(*arguments)


# The coordinate check: three laws, and the exponents that theory gives them.


def exponent(name: str, layer: str, optimizer: str, rate: float) -> float:
    """d log(change) / d log(width) between 128 and 1024."""
    x, labels = gaussian(32, IN, seed=1), torch.arange(32) % OUT
    small, large = (
        sum(
            coordinate_check(
                name,
                width,
                x,
                labels,
                optimizer=optimizer,
                rate=rate,
                steps=1,
                seed=seed,
            )[layer]
            for seed in range(3)
        )
        for width in (128, 1024)
    )
    return math.log(large / small) / math.log(8)


@pytest.mark.parametrize(
    ("name", "layer", "optimizer", "expected"),
    [
        ("mup", "hidden", "adam", 0.0),
        ("mup", "output", "adam", 0.0),
        ("sp", "hidden", "adam", 1.0),
        ("ntk", "hidden", "adam", 0.5),
        ("sp", "input", "adam", 0.0),
        ("mup", "hidden", "sgd", 0.0),
        ("mup", "input", "sgd", 0.0),
        ("ntk", "hidden", "sgd", -0.5),
    ],
)
def test_how_a_step_scales_with_the_width(
    name: str, layer: str, optimizer: str, expected: float
) -> None:
    rate = {"adam": 0.003, "sgd": 0.003}[optimizer]
    assert exponent(name, layer, optimizer, rate) == pytest.approx(expected, abs=0.2)


# Trainings side by side.


def quadratic(given: dict[str, Tensor], x: Tensor, labels: Tensor) -> Tensor:
    return ((x @ given["w"]).squeeze(-1) - labels).square().mean() + given["b"].square()


def test_adam_is_that_of_torch_for_each_rate() -> None:
    rates = torch.tensor([0.1, 0.01])
    start = {"w": gaussian(3, 1), "b": torch.tensor(2.0)}
    stacked = {k: torch.stack([v, v]) for k, v in start.items()}
    ours = Adam(stacked, {"w": 1.0, "b": 0.5})
    grads = [[gaussian(3, 1, seed=s), gaussian(1, seed=s + 50)[0]] for s in range(5)]
    for w, b in grads:
        ours.step({"w": torch.stack([w, w]), "b": torch.stack([b, b])}, rates)
    for number, rate in enumerate(rates.tolist()):
        mine = {k: v.clone() for k, v in start.items()}
        theirs = torch.optim.Adam(
            [
                {"params": [mine["w"]], "lr": rate},
                {"params": [mine["b"]], "lr": rate / 2},
            ],
            betas=(0.9, 0.99),
        )
        for mine["w"].grad, mine["b"].grad in grads:
            theirs.step()
        for key, value in mine.items():
            assert torch.allclose(stacked[key][number], value, atol=1e-6), key


def test_models_trained_together_do_not_meet() -> None:
    x, labels = gaussian(50, 3), gaussian(50, seed=1)
    start = {"w": gaussian(3, 1), "b": torch.tensor(1.0)}

    def histories(rates: list[float]) -> Tensor:
        stacked = {k: v.repeat(len(rates), *[1] * v.ndim) for k, v in start.items()}
        return train_together(
            quadratic, stacked, torch.tensor(rates), x, labels, steps=6
        )

    together = histories([0.1, 0.01, 0.001])
    for number, rate in enumerate([0.1, 0.01, 0.001]):
        alone = histories([rate])[:, 0]
        assert torch.allclose(together[:, number], alone, atol=1e-6)


def test_width_sweep_is_a_plain_loop() -> None:
    x, labels = gaussian(80, IN), torch.arange(80) % OUT
    swept = width_sweep(
        "mup", 48, [0.01, 0.001], x, labels, seeds=1, steps=4, last=1, base_width=16
    )
    scaling = scalings("mup", "adam", 48, 16, IN)
    for rate, found in zip([0.01, 0.001], swept[0].tolist(), strict=True):
        weights = copy.deepcopy(draw(scaling, 48, IN, OUT, seed=0))
        step = torch.optim.Adam(
            [
                {"params": weights[n].requires_grad_(), "lr": rate * scaling[n].rate}
                for n in LAYERS
            ],
            betas=(0.9, 0.99),
        )
        batches = torch.Generator().manual_seed(0)
        for _ in range(4):
            chosen = torch.randint(80, (64,), generator=batches)
            logits = forward(weights, scaling, x[chosen])["output"]
            loss = F.cross_entropy(logits, labels[chosen])
            step.zero_grad()
            loss.backward()
            step.step()
        assert found == pytest.approx(loss.item(), rel=1e-3)


def test_valley() -> None:
    rates = [2.0**-k for k in (5, 4, 3, 2, 1)]
    losses = torch.tensor([3.0, 1.0, 1.2, 1.9, math.nan])
    assert valley(rates, losses) == pytest.approx((-4 - 3 - 2) / 3)


def test_valley_of_a_perfect_rate() -> None:
    assert valley([0.5, 0.25, 0.125], torch.tensor([1.0, 0.0, 2.0])) == -2


@pytest.mark.parametrize("losses", [[math.nan] * 3, [math.inf] * 3])
def test_no_valley_where_nothing_is_finite(losses: list[float]) -> None:
    with pytest.raises(ValueError, match="losses: got none that is finite"):
        valley([0.5, 0.25, 0.125], torch.tensor(losses))


def test_bad_shifts_are_named() -> None:
    scaling = Scaling(2.0, 3.0, 5.0)
    with pytest.raises(ValueError, match="optimizer: got 'adamw', allowed are sgd, ad"):
        scaling.shifted(2.0, "adamw")
    with pytest.raises(ValueError, match=r"theta: got 0\.0, allowed"):
        scaling.shifted(0.0, "adam")


def test_scaling_is_plain_data() -> None:
    assert Scaling(2.0, 3.0, 5.0).shifted(2.0, "sgd") == Scaling(4.0, 1.5, 1.25)
    assert Scaling(2.0, 3.0, 5.0).shifted(2.0, "adam") == Scaling(4.0, 1.5, 2.5)
