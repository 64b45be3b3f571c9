"""One training loop for both parts of the model: on a CPU, a GPU, or several.

What is random in a step is drawn for the whole batch from the number of the step, on
the CPU; a process takes its share of it. So a run that was stopped goes on as if it had
not been, and two processes learn what one does: up to rounding, if a sum may be taken
in another order, as by several processes or on a GPU.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

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

    def send(self, batch: Tensor) -> Tensor:
        """This process's share of a batch, on its device.

        From pinned memory, so that nobody waits for the GPU: the next step is prepared
        while it still computes this one.
        """
        share = batch[self.rank :: self.world_size].contiguous()
        if self.device.type == "cuda":
            share = share.pin_memory()
        return share.to(self.device, non_blocking=True)


def find_place() -> Place:
    """A GPU if there is one, else the CPU; joins the others if torchrun started us.

    Raises:
        ValueError: there are more processes than GPUs.
    """
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"LOCAL_RANK: got {local}; with {torch.cuda.device_count()} GPUs, "
                f"torchrun may start at most as many processes"
            )
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if "WORLD_SIZE" not in os.environ:
        return Place(device=device)
    dist.init_process_group(
        "nccl" if cuda else "gloo", device_id=device if cuda else None
    )
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


class Objective(nn.Module):
    """A module that computes a loss from rows of the data and from what is random.

    Attributes:
        rows: (rows,), the rows of the data that it may learn from.
    """

    rows: Tensor

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """All that is random in a batch, (batch, …) each: what `forward` takes."""
        raise NotImplementedError


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
    olds: list[torch.Tensor] = list(average.parameters())
    news: list[torch.Tensor] = list(model.parameters())
    torch._foreach_lerp_(olds, news, share)


def share_gradients(objective: Objective) -> nn.Module:
    """`objective`, with gradients that are the mean over all processes.

    Buffers hold the data. They never change, so they are not sent in every step.
    """
    known = inspect.signature(DistributedDataParallel).parameters
    new, old = "forward_sync_buffers", "broadcast_buffers"  # renamed in PyTorch 2.13
    switch: dict[str, Any] = {new if new in known else old: False}
    return DistributedDataParallel(objective, **switch)


class Run:
    """A training under way: all that its file remembers.

    Args:
        objective: trained in place. path: the file for going on; read if it exists.

    Attributes:
        average: the moving average of the weights: an objective, too.
        step: steps done. log: the mean loss between two saves. seconds: spent so far.
    """

    def __init__(
        self, objective: Objective, plan: Plan, place: Place, path: Path
    ) -> None:
        if plan.batch % place.world_size:
            raise ValueError(
                f"batch: got {plan.batch}, no multiple of the {place.world_size} "
                f"processes"
            )
        self.objective, self.plan, self.place, self.path = objective, plan, place, path
        self.average = copy.deepcopy(objective).requires_grad_(False).eval()
        self.optimizer = torch.optim.Adam(
            objective.parameters(), plan.learning_rate, betas=(0.9, 0.99), fused=True
        )
        self.step, self.seconds = 0, 0.0
        self.log: list[dict[str, float]] = []
        if path.exists():
            header = load_training(path, objective, self.average, self.optimizer)
            self.step, self.seconds = header["step"], header["seconds"]
            self.log = header["log"]
        self.together: nn.Module = objective
        if place.world_size > 1:
            self.together = share_gradients(objective)

    def train_step(self) -> Tensor:
        """One step of Adam, gradients clipped to norm 1; the loss comes back."""
        plan, place = self.plan, self.place
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + self.step)
        rows = rows_of_step(self.objective.rows, self.step, plan.batch, plan.seed)
        random = self.objective.draw(plan.batch, generator)
        loss = self.together(*(place.send(part) for part in (rows, *random)))
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate(self.step)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.together.parameters(), 1.0)
        self.optimizer.step()
        # Early weights are soon forgotten: the average covers a tenth of the steps.
        share_of_new = max(1 - plan.decay, 9 / (10 + self.step))
        update_average(self.average, self.objective, share_of_new)
        self.step += 1
        return loss.detach()

    def save(self, loss: Tensor) -> None:
        """Note the loss, a mean since the last save, and write the file."""
        if self.place.world_size > 1:
            dist.all_reduce(loss)
            loss = loss / self.place.world_size
        self.log.append({"step": self.step, "loss": round(loss.item(), 5)})
        if self.place.first:
            header = {"step": self.step, "log": self.log, "seconds": self.seconds}
            save_training(
                self.path, self.objective, self.average, self.optimizer, header
            )


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
    run = Run(objective, plan, place, path)
    bar = tqdm(
        initial=run.step,
        total=plan.steps,
        desc=path.stem,
        disable=not place.first,
        mininterval=5,
    )
    begin = perf_counter() - run.seconds
    losses: list[Tensor] = []
    while run.step < plan.steps:
        losses.append(run.train_step())
        bar.update()
        if run.step % plan.save_every == 0 or run.step == plan.steps:
            run.seconds = round(perf_counter() - begin, 1)
            run.save(torch.stack(losses).mean())
            bar.set_postfix(loss=run.log[-1]["loss"])
            losses.clear()
            if place.first and report is not None:
                report(run.average, run.step)
    bar.close()
    return run.average
