"""One training loop for both parts of the model: on a CPU, a GPU, or several.

What is random in a step is drawn for the whole batch from the number of the step, on
the CPU; a process takes its share of it. So a run that was stopped goes on as if it had
not been, and two processes learn what one does.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from underhood.stable_diffusion.state import load_training, save_training


@dataclass(frozen=True)
class Place:
    """Where this process computes: its number, how many there are, its device."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """The one process that writes files."""
        return self.rank == 0


def find_place() -> Place:
    """A GPU if there is one, else the CPU; joins the others if torchrun started us."""
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if "WORLD_SIZE" not in os.environ:
        return Place(device=device)
    dist.init_process_group("nccl" if cuda else "gloo")
    return Place(dist.get_rank(), dist.get_world_size(), device)


@dataclass(frozen=True)
class Plan:
    """How to train.

    Args:
        steps: in all. batch: of all processes together. learning_rate: at its height.
        warmup: steps of its rise. cooldown: the last part of the steps, in which it
            falls to 0. seed: of everything random.
        decay: of the moving average of the weights. save_every: steps.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 50
    cooldown: float = 0.3
    seed: int = 0
    decay: float = 0.998
    save_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name}: got {getattr(self, name)}; at least 1 needed"
                )

    def rate(self, step: int) -> float:
        """The learning rate of a step: up, level, down to 0.

        It does not depend on `steps` before the cooldown. So a run may be made longer.
        """
        down = (self.steps - step) / max(1, round(self.cooldown * self.steps))
        return self.learning_rate * min(1, (step + 1) / max(1, self.warmup), down)


class Objective(Protocol):
    """A module that computes a loss from rows of the data and what is random."""

    rows: Tensor  # the rows of the data that it may learn from

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Everything random that a batch needs, (batch, …) each, on the CPU."""

    def __call__(self, rows: Tensor, *random: Tensor) -> Tensor:
        """The loss, a mean over the rows."""


def rows_of_step(rows: Tensor, step: int, batch: int, seed: int) -> Tensor:
    """The rows of one step, when each is seen once per epoch, in a random order.

    Args:
        rows: (rows,), to choose from.

    Returns:
        (batch,).
    """
    places = torch.arange(step * batch, (step + 1) * batch)
    chosen = torch.empty(batch, dtype=torch.long)
    for epoch in (places // len(rows)).unique().tolist():
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(rows), generator=generator)
        here = places // len(rows) == epoch
        chosen[here] = rows[order[places[here] % len(rows)]]
    return chosen


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, share: float) -> None:
    """average ← (1 - share) · average + share · model, weight by weight."""
    olds, news = list(average.parameters()), list(model.parameters())
    torch._foreach_lerp_(olds, news, share)


def fit(
    objective: Objective,
    plan: Plan,
    place: Place,
    path: Path,
    report: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Train `objective` in place, from where `path` left off if it exists.

    Args:
        path: the file for going on; written every `plan.save_every` steps.
        report: called with the average and the step whenever the file is written.

    Returns:
        The moving average of the weights: an objective, too.
    """
    assert isinstance(objective, nn.Module)
    if plan.batch % place.world_size:
        raise ValueError(
            f"batch: got {plan.batch}, no multiple of the {place.world_size} processes"
        )
    average = copy.deepcopy(objective).requires_grad_(False).eval()
    optimizer = torch.optim.Adam(
        objective.parameters(), plan.learning_rate, betas=(0.9, 0.99)
    )
    done, log, seconds = 0, [], 0.0
    if path.exists():
        header = load_training(path, objective, average, optimizer)
        done, log, seconds = header["step"], header["log"], header["seconds"]
    together: nn.Module = objective
    if place.world_size > 1:
        together = DistributedDataParallel(objective, broadcast_buffers=False)
    begin = perf_counter() - seconds
    total = torch.zeros((), device=place.device)
    bar = tqdm(
        range(done, plan.steps),
        initial=done,
        total=plan.steps,
        desc=path.stem,
        disable=not place.first,
        mininterval=5,
    )
    for step in bar:
        loss = train_step(objective, together, optimizer, plan, place, step)
        update_average(average, objective, max(1 - plan.decay, 9 / (10 + step)))
        total += loss
        last = step + 1 == plan.steps
        if (step + 1) % plan.save_every == 0 or last:
            count = step % plan.save_every + 1
            log.append({"step": step + 1, "loss": round(total.item() / count, 5)})
            bar.set_postfix(loss=log[-1]["loss"])
            total.zero_()
            if place.first:
                header = {
                    "step": step + 1,
                    "log": log,
                    "seconds": round(perf_counter() - begin, 1),
                }
                save_training(path, objective, average, optimizer, header)
                if report is not None:
                    report(average, step + 1)
    return average


def train_step(
    objective: Objective,
    together: nn.Module,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    place: Place,
    step: int,
) -> Tensor:
    """One step of Adam, gradients clipped to norm 1; the loss comes back."""
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
    rows = rows_of_step(objective.rows, step, plan.batch, plan.seed)
    random = objective.draw(plan.batch, generator)
    share = slice(place.rank, None, place.world_size)
    loss = together(
        rows[share].to(place.device), *(part[share].to(place.device) for part in random)
    )
    for group in optimizer.param_groups:
        group["lr"] = plan.rate(step)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(together.parameters(), 1.0)
    optimizer.step()
    return loss.detach()
