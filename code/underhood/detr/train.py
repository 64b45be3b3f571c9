"""Train a small DETR on scenes of handwritten digits, on a CPU.

    python -m underhood.detr.train --out checkpoint

Stop it at any time; the same command goes on from the last checkpoint. The
checkpoint holds a running average of the weights; `training.safetensors` holds what
is needed to go on.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from underhood.detr.coco import average_precision, detections
from underhood.detr.config import DetrConfig
from underhood.detr.criterion import SetCriterion, total_loss
from underhood.detr.files import load_tensors, save_model, save_tensors
from underhood.detr.matcher import hungarian_match
from underhood.detr.model import Detr
from underhood.detr.recipe import DIGITS, dense_loss, fresh_model
from underhood.detr.scenes import SIZE, Scenes, make_scenes

VALIDATION = 256  # scenes, of held-out digits
VALIDATION_SEED = 1_000_000
DENSE_STEPS = 600  # without the decoder
SHOWN = ("loss_ce", "loss_bbox", "loss_giou", "cardinality_error")
SIZES = (16.0, 22.0)  # pixels: where "small" and "medium" digits end


def learning_rate(step: int, steps: int, peak: float, warmup: int = 200) -> float:
    """Up, constant, and down to zero over the last third."""
    return peak * min(step / warmup, 1.0, (steps - step) / (steps / 3))


@dataclass
class Run:
    """All that a training run carries from step to step."""

    model: Detr
    average: Detr
    optimizer: torch.optim.AdamW
    criterion: SetCriterion
    step: int = 0

    @staticmethod
    def start(config: DetrConfig = DIGITS, seed: int = 0) -> Run:
        model, average = fresh_model(config, seed), fresh_model(config, seed)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=0.0, weight_decay=1e-4, fused=True
        )
        return Run(model, average, optimizer, SetCriterion(config.num_labels))

    def train_step(
        self, batch_size: int, lr: float, dense_steps: int = DENSE_STEPS
    ) -> dict[str, float]:
        """One step, on scenes that no other step sees. Returns its losses."""
        self.model.train()
        scenes = make_scenes(batch_size, seed=self.step)
        if self.step < dense_steps:
            losses, dense = self._dense_only(scenes)
        else:
            output = self.model(scenes.pixel_values())
            losses = self.criterion(output, scenes.targets)
            dense = dense_loss(
                self.model, self.criterion, output.memory, output.feature_size,
                scenes.targets,
            )  # fmt: skip
        loss = dense + total_loss(losses)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.step += 1
        self.update_average()
        shown = {name: losses[name].item() for name in SHOWN if name in losses}
        return {"loss": loss.item(), "dense": dense.item(), **shown}

    def _dense_only(self, scenes: Scenes) -> tuple[dict[str, Tensor], Tensor]:
        features = self.model.features(scenes.pixel_values())[-1]
        mask = features.new_ones(features[:, 0].shape, dtype=torch.bool)
        memory, _ = self.model.model.encode(features, mask)
        size = (features.shape[2], features.shape[3])
        dense = dense_loss(self.model, self.criterion, memory, size, scenes.targets)
        return {}, dense

    @torch.no_grad()
    def update_average(self) -> None:
        """The running average of weights and statistics; short-sighted at first."""
        keep = min(0.998, (self.step - 1) / (self.step + 9))
        mine, theirs = self.average.state_dict(), self.model.state_dict()
        for name, value in mine.items():
            if value.is_floating_point():
                value.lerp_(theirs[name], 1 - keep)

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on, by name."""
        out = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        out |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            out |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        return out

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Go on from what `tensors()` gave."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}}
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            if part in parts:
                parts[part][rest] = value
            elif part == "optimizer":
                index, _, key = rest.partition(".")
                states.setdefault(int(index), {})[key] = value
        self.model.load_state_dict(parts["model"])
        self.average.load_state_dict(parts["average"])
        optimizer = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**optimizer, "state": states})
        self.step = step


@torch.no_grad()
def validate(
    model: Detr, previous: list[dict[int, int]] | None
) -> tuple[dict[str, float], list[dict[int, int]]]:
    """AP on scenes of held-out digits, and how many objects changed their query.

    Args:
        previous: Per scene the query of each object at the last call.

    Returns:
        What to log; per scene the query of each object now.
    """
    model.eval()
    scenes = make_scenes(VALIDATION, seed=VALIDATION_SEED, held_out=True)
    output = model(scenes.pixel_values())
    found = detections(output, SIZE, SIZE)
    result = average_precision(found, scenes.targets, SIZE, SIZE, SIZES)
    matches = hungarian_match(output, scenes.targets)
    now = [dict(zip(j.tolist(), i.tolist(), strict=True)) for i, j in matches]
    if previous is not None:
        pairs = [(a[k], b[k]) for a, b in zip(previous, now, strict=True) for k in b]
        result["matches_changed"] = sum(a != b for a, b in pairs) / len(pairs)
    return {name: round(value, 4) for name, value in result.items()}, now


def train(arguments: argparse.Namespace) -> None:
    """The loop: a bar, a log line now and then, a checkpoint as often."""
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    run, log = Run.start(), out / "log.jsonl"
    state = out / "training.safetensors"
    if state.exists():
        tensors, facts = load_tensors(state)
        run.restore(tensors, int(facts["step"]))
    else:
        log.unlink(missing_ok=True)
    _append(log, {"step": run.step, "command": vars(arguments) | {"out": str(out)}})
    previous: list[dict[int, int]] | None = None
    started, sums, logged = time.perf_counter(), dict[str, float](), run.step
    bar = tqdm(total=arguments.steps, initial=run.step, unit="step")
    while run.step < arguments.steps:
        lr = learning_rate(run.step, arguments.steps, arguments.lr)
        for name, value in run.train_step(arguments.batch_size, lr).items():
            sums[name] = sums.get(name, 0.0) + value
        bar.update()
        if run.step % arguments.every and run.step != arguments.steps:
            continue
        record: dict[str, Any] = {"step": run.step, "lr": round(lr, 6)}
        record["seconds"] = round(time.perf_counter() - started, 1)
        steps = run.step - logged
        record |= {k: round(v / steps, 4) for k, v in sums.items()}
        scores, previous = validate(run.average, previous)
        _append(log, record | scores)
        bar.set_postfix(loss=record["loss"], AP=scores["AP"], AP50=scores["AP50"])
        sums.clear()
        logged = run.step
        save_tensors(state, run.tensors(), {"step": str(run.step)})
        save_model(run.average, run.average.config, out)
    bar.close()


def _append(log: Path, record: dict[str, Any]) -> None:
    with log.open("a") as file:
        file.write(json.dumps(record) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=7800)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--every", type=int, default=250, help="steps per checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments)


if __name__ == "__main__":
    main()
