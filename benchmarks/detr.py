"""DETR: how far ours is from transformers', and how our small model was trained.

Writes benchmarks/results/cpu/detr.json. Needs transformers. The training itself is
`python -m underhood.detr.train`; here its log is put beside the checkpoint's facts.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers import (
    DetrForObjectDetection,
    DetrForSegmentation,
    DetrImageProcessorPil,
    ResNetConfig,
)

from underhood.detr import Detr, DetrPanoptic, preprocess

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "code" / "underhood" / "detr" / "checkpoint"
RESNETS: dict[str, dict[str, Any]] = {
    "ResNet-50": {},
    "ResNet-101": {"depths": [3, 4, 23, 3]},
    "basic blocks": {
        "depths": [2, 2, 2, 2],
        "hidden_sizes": [64, 128, 256, 512],
        "layer_type": "basic",
    },
}


def build(name: str, cls: type[Any], stages: list[str]) -> Any:
    """Their model with random weights, biases and statistics."""
    backbone = ResNetConfig(out_features=stages, **RESNETS[name])
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        num_labels=91,
        num_queries=20,
    )
    torch.manual_seed(0)
    model = cls(config).eval()
    for key, value in model.state_dict().items():
        if "running_var" in key:
            value.copy_(0.5 + torch.rand(value.shape))
        elif "query_position" in key:
            value.normal_()
        elif value.dim() > 1:  # large enough that the queries come out different
            sharp = 3.0 if "q_proj" in key or "k_proj" in key else 1.0
            value.normal_(0, sharp * 1.4 / value[0].numel() ** 0.5)
        elif value.is_floating_point():
            value.add_(0.05 * torch.randn(value.shape))
    return model


def padded_batch() -> tuple[Tensor, Tensor]:
    pixels = torch.randn(2, 3, 160, 192)
    mask = torch.ones(2, 160, 192, dtype=torch.bool)
    mask[1, 100:], mask[1, :, 150:] = False, False
    return pixels * mask[:, None], mask


def gap(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def model_rows() -> Iterator[dict[str, Any]]:
    """Detection with each backbone and panoptic with one, on a padded batch."""
    four = ["stage1", "stage2", "stage3", "stage4"]
    cases: list[tuple[str, type[Any], type[nn.Module], list[str]]] = [
        (name, DetrForObjectDetection, Detr, four[-1:]) for name in RESNETS
    ]
    cases.append(("ResNet-50", DetrForSegmentation, DetrPanoptic, four))
    for name, theirs_cls, ours_cls, stages in cases:
        theirs = build(name, theirs_cls, stages)
        with tempfile.TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            ours = ours_cls.from_pretrained(folder)  # type: ignore[attr-defined]
        pixels, mask = padded_batch()
        with torch.no_grad():
            want, got = theirs(pixels, mask.long()), ours(pixels, mask)
        kind = "panoptic" if ours_cls is DetrPanoptic else "detection"
        names = ["logits", "pred_boxes", *["pred_masks"] * (kind == "panoptic")]
        errors = {each: gap(getattr(got, each), getattr(want, each)) for each in names}
        spread = want.logits.std(1).mean().item()  # over the queries
        yield {
            "what": kind,
            "backbone": name,
            "error": max(errors.values()),
            "spread": spread,
            **errors,
        }


def preprocessing_error() -> float:
    """Three pictures of different sizes through both preprocessings."""
    generator = np.random.default_rng(0)
    shapes = [(48, 64, 3), (90, 40, 3), (30, 100, 3)]
    pixels = [generator.integers(0, 255, shape).astype(np.uint8) for shape in shapes]
    images = [Image.fromarray(each) for each in pixels]
    want = DetrImageProcessorPil()(images, return_tensors="pt")
    pixel_values, pixel_mask = preprocess(images)
    assert torch.equal(pixel_mask, want["pixel_mask"].bool())
    return gap(pixel_values, want["pixel_values"])


def main() -> None:
    torch.set_num_threads(1)
    lines = (CHECKPOINT / "log.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    recording = {
        "device": f"CPU, one thread, {platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "date": date.today().isoformat(),
        "command": "python benchmarks/detr.py",
        "data": {
            "parity": list(model_rows()),
            "preprocessing_error": preprocessing_error(),
            "starts": [row for row in log if "command" in row],
            "training": [row for row in log if "loss" in row],
        },
    }
    path = ROOT / "benchmarks" / "results" / "cpu" / "detr.json"
    path.write_text(json.dumps(recording, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
