"""detr against transformers: random weights, padded batches, losses, preprocessing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from underhood.detr import (
    Detr,
    DetrConfig,
    DetrPanoptic,
    SetCriterion,
    config_from_published,
    dice_loss,
    hungarian_match,
    merge_masks,
    postprocess,
    preprocess,
    published_names,
    sigmoid_focal_loss,
    total_loss,
)
from underhood.detr.files import save_tensors
from underhood.detr.matcher import Target

transformers = pytest.importorskip("transformers")
from transformers import (  # noqa: E402
    DetrForObjectDetection,
    DetrForSegmentation,
    ResNetConfig,
)
from transformers.loss.loss_for_object_detection import (  # noqa: E402
    HungarianMatcher,
    ImageLoss,
)
from transformers.loss.loss_for_object_detection import (  # noqa: E402
    dice_loss as their_dice,
)
from transformers.loss.loss_for_object_detection import (  # noqa: E402
    sigmoid_focal_loss as their_focal,
)
from transformers.models.detr.image_processing_pil_detr import (  # noqa: E402
    DetrImageProcessorPil,
)

RESNETS: dict[str, dict[str, Any]] = {
    "resnet18": {
        "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512],
        "layer_type": "basic",
    },
    "resnet50": {},
    "resnet101": {"depths": [3, 4, 23, 3]},
    "basic": {
        "depths": [2, 1, 2, 1], "hidden_sizes": [16, 32, 48, 64],
        "embedding_size": 16, "layer_type": "basic",
    },
    "bottleneck": {
        "depths": [1, 2, 1, 2], "hidden_sizes": [32, 64, 96, 128],
        "embedding_size": 24,
    },
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "basic": {
        "d_model": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_layers": 2, "decoder_layers": 3, "num_queries": 7, "num_labels": 5,
        "encoder_ffn_dim": 40, "decoder_ffn_dim": 40,
    },
    "bottleneck": {
        "d_model": 64, "encoder_attention_heads": 8, "decoder_attention_heads": 8,
        "encoder_layers": 1, "decoder_layers": 2, "num_queries": 11, "num_labels": 3,
        "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
    },
    "resnet18": {"num_labels": 91},
    "resnet50": {"num_labels": 91},
    "resnet101": {"num_labels": 91},
}  # fmt: skip


def their_config(kind: str, segmentation: bool = False) -> Any:
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = ResNetConfig(
        out_features=stages if segmentation else stages[-1:], **RESNETS[kind]
    )
    return transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=backbone, **SIZES[kind],
    )  # fmt: skip


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Weights, biases and statistics that leave nothing at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if "running_var" in name:
            value.copy_(0.5 + noise.abs())
        elif value.dim() == 1:
            value.add_(0.1 * noise)
        else:
            value.add_(0.2 * noise / max(value[0].numel(), 1) ** 0.5)


def padded_batch(seed: int = 0, channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(3, channels, 96, 128, generator=generator)
    mask = torch.ones(3, 96, 128, dtype=torch.bool)
    mask[1, 70:], mask[2, :, 60:] = False, False
    return pixels * mask[:, None], mask


def save_theirs(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def gap(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_detection_equals_transformers(kind: str, tmp_path: Path) -> None:
    theirs = DetrForObjectDetection(their_config(kind)).eval()
    randomize(theirs)
    theirs.set_attn_implementation("eager")  # else it leaves out the attentions
    ours = Detr.from_pretrained(save_theirs(theirs, tmp_path))
    pixels, mask = padded_batch()
    with torch.no_grad():
        want = theirs(pixels, mask.long(), output_attentions=True)
        got = ours(pixels, mask, with_attentions=True)
        fused = ours(pixels, mask)
        no_mask = ours(pixels), theirs(pixels)
    assert gap(got.logits, want.logits) < 1e-4
    assert gap(got.pred_boxes, want.pred_boxes) < 1e-4
    assert gap(got.memory, want.encoder_last_hidden_state) < 1e-4
    assert gap(fused.logits, got.logits) < 1e-4
    assert gap(no_mask[0].logits, no_mask[1].logits) < 1e-4
    pairs = [
        (got.attentions.encoder, want.encoder_attentions),
        (got.attentions.cross, want.cross_attentions),
    ]
    for mine, others in pairs:
        for weights, expected in zip(mine, others, strict=True):
            assert gap(weights, expected) < 1e-5
    assert want.logits.std() > 0.1  # the comparison is not about zeros
    assert gap(no_mask[0].logits, got.logits) > 1e-3  # the mask does something


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_panoptic_equals_transformers(kind: str, tmp_path: Path) -> None:
    config = their_config(kind, segmentation=True)
    config.encoder_attention_heads = config.decoder_attention_heads = 8
    config.d_model = {"basic": 128, "bottleneck": 64}[kind]
    theirs = DetrForSegmentation(config).eval()
    randomize(theirs)
    ours = DetrPanoptic.from_pretrained(save_theirs(theirs, tmp_path))
    pixels, mask = padded_batch()
    with torch.no_grad():
        want, got = theirs(pixels, mask.long()), ours(pixels, mask)
    assert gap(got.pred_masks, want.pred_masks) < 1e-4
    assert gap(got.logits, want.logits) < 1e-4
    assert want.pred_masks.std() > 0.01


@pytest.mark.parametrize(
    ("kind", "count"),
    [("resnet18", 28_843_552), ("resnet50", 41_524_768), ("resnet101", 60_464_672)],
)
def test_published_sizes(kind: str, count: int) -> None:
    by_sizes = config_from_published(their_config(kind).to_dict())
    by_name = config_from_published({"backbone": kind, "num_labels": 91})
    assert by_name == dataclasses.replace(by_sizes, id2label={})
    assert (by_name == DetrConfig()) == (kind == "resnet50")
    with torch.device("meta"):
        theirs = DetrForObjectDetection(their_config(kind))
        ours = Detr(config_from_published(their_config(kind).to_dict()))
    assert sum(p.numel() for p in ours.parameters()) == count
    got = {k: v.shape for k, v in ours.state_dict().items()}
    want = published_names(theirs.state_dict())
    assert got == {k: v.shape for k, v in want.items()}


def test_what_a_published_config_leaves_out() -> None:
    full = config_from_published(transformers.DetrConfig().to_dict())
    assert config_from_published({}) == dataclasses.replace(full, id2label={})


def test_panoptic_size() -> None:
    config = their_config("resnet50", segmentation=True)
    config.num_labels = 250
    with torch.device("meta"):
        theirs = DetrForSegmentation(config)
        ours = DetrPanoptic(config_from_published(config.to_dict()))
    assert sum(p.numel() for p in ours.parameters()) == 42_899_288
    got = {k: v.shape for k, v in ours.state_dict().items()}
    want = published_names(theirs.state_dict())
    assert got == {k: v.shape for k, v in want.items()}


def published_folder(folder: Path, model: Detr, **config: Any) -> Path:
    """A folder as on the hub: timm's names and the leftover counters."""
    (folder / "config.json").write_text(json.dumps({"model_type": "detr", **config}))
    tensors = dict(model.state_dict())
    for stage in (1, 2, 3, 4):
        prefix = f"model.backbone.conv_encoder.model.layer{stage}.0.downsample.1"
        tensors[f"{prefix}.num_batches_tracked"] = torch.tensor(0)
    save_tensors(folder / "model.safetensors", tensors, {})
    return folder


SMALL = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 5,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "id2label": {"0": "cat", "1": "dog"}, "backbone": "resnet50",
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "stride"),
    [
        ({}, 32),
        ({"dilation": True}, 16),
        ({"backbone_config": {"backbone": "resnet50", "output_stride": 16}}, 16),
    ],
)
def test_published_folder(more: dict[str, Any], stride: int, tmp_path: Path) -> None:
    config = {**SMALL, **more}
    model = Detr(config_from_published(config)).eval()
    randomize(model)
    loaded = Detr.from_pretrained(published_folder(tmp_path, model, **config))
    assert loaded.config.stride == stride
    assert loaded.config.id2label == {0: "cat", 1: "dog"}
    pixels, mask = padded_batch()
    with torch.no_grad():
        got, want = loaded(pixels, mask), model(pixels, mask)
    assert torch.equal(got.logits, want.logits)
    assert got.feature_size == (96 // stride, 128 // stride)


def test_dilated_stage_is_the_undilated_one_on_a_finer_grid() -> None:
    """Every second cell of DC5 sees what a cell of the plain stage sees.

    The 3 x 3 kernel of its first block is not dilated yet, those of the others are.
    """
    plain = DetrConfig(depths=(1, 3), widths=(16, 32), d_model=16, num_heads=2)
    dilated = dataclasses.replace(plain, dilate_last=True)
    first, second = Detr(plain).eval(), Detr(dilated).eval()
    second.load_state_dict(first.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        coarse, fine = first.features(x)[-1], second.features(x)[-1]
    assert fine.shape[-2:] == (16, 16)
    assert gap(fine[..., ::2, ::2], coarse) < 1e-5


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_folder_that_does_not_fit(change: str, tmp_path: Path) -> None:
    model = Detr(config_from_published(SMALL))
    tensors = dict(model.state_dict())
    name = "model.encoder.layers.0.fc1.bias"
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        name = "model.encoder.layers.7.fc1.bias"
        tensors[name] = torch.zeros(3)
    else:
        tensors[name] = torch.zeros(3)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "detr", **SMALL}))
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        Detr.from_pretrained(tmp_path)
    save_tensors(tmp_path / "model.safetensors", tensors, {})
    with pytest.raises(ValueError, match=name):
        Detr.from_pretrained(tmp_path)


@pytest.mark.parametrize("damage", ["pointer", "cut"])
def test_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    """What `git clone` leaves without Git LFS; a download that was interrupted."""
    model = Detr(config_from_published(SMALL))
    path = published_folder(tmp_path, model, **SMALL) / "model.safetensors"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    path.write_bytes(pointer if damage == "pointer" else path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged, .* Git LFS"):
        Detr.from_pretrained(tmp_path)


def test_another_model_is_refused() -> None:
    for key, value in (
        ("model_type", "yolos"),
        ("position_embedding_type", "learned"),
        ("activation_function", "gelu"),
        ("backbone", "swin"),
    ):
        with pytest.raises(ValueError, match=value):
            config_from_published({key: value})


# Matching and losses


def random_targets(seed: int, labels: int, counts: tuple[int, ...]) -> list[Target]:
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for count in counts:
        size = 0.05 + 0.3 * torch.rand(count, 2, generator=generator)
        center = size / 2 + torch.rand(count, 2, generator=generator) * (1 - size)
        classes = torch.randint(labels, (count,), generator=generator)
        targets.append(Target(class_labels=classes, boxes=torch.cat([center, size], 1)))
    return targets


@pytest.mark.parametrize("counts", [(3, 0, 5), (0, 0, 0), (12, 1, 7)])
def test_matches_and_losses_equal_transformers(counts: tuple[int, ...]) -> None:
    config = DetrConfig(
        num_labels=4, num_queries=9, d_model=32, num_heads=4, encoder_layers=1,
        decoder_layers=3, ffn_dim=32, depths=(1, 1), widths=(16, 32),
        bottleneck=False,
    )  # fmt: skip
    torch.manual_seed(1)
    output = Detr(config).eval()(torch.randn(3, 3, 64, 64))
    targets = random_targets(2, 4, counts)
    theirs = ImageLoss(
        HungarianMatcher(1, 5, 2), 4, 0.1, ["labels", "boxes", "cardinality"]
    )
    as_theirs = {"logits": output.logits, "pred_boxes": output.pred_boxes}
    for (i, j), (k, m) in zip(
        hungarian_match(output, targets),
        theirs.matcher(as_theirs, targets),
        strict=True,
    ):
        assert i.tolist() == k.tolist()
        assert j.tolist() == m.tolist()
    auxiliary = [
        {"logits": each.logits, "pred_boxes": each.pred_boxes}
        for each in output.auxiliary
    ]
    want = theirs({**as_theirs, "auxiliary_outputs": auxiliary}, targets)
    got = SetCriterion(4)(output, targets)
    assert {f"loss_{k}_{i}" for k in ("ce", "bbox", "giou") for i in (0, 1)} < set(got)
    for name, value in got.items():
        assert value.item() == pytest.approx(want[name].item(), rel=1e-5, abs=1e-6), (
            name
        )
    weights = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2}
    total = sum(
        weight * value.item()
        for name, value in want.items()
        for kind, weight in weights.items()
        if name.startswith(kind)
    )
    assert total_loss(got).item() == pytest.approx(total, rel=1e-5)


def test_mask_losses_equal_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(6, 50, generator=generator)
    masks = (torch.rand(6, 50, generator=generator) > 0.7).float()
    assert dice_loss(logits, masks, 4).item() == pytest.approx(
        their_dice(logits, masks, 4).item(), rel=1e-6
    )
    assert sigmoid_focal_loss(logits, masks, 4).item() == pytest.approx(
        their_focal(logits, masks, 4).item(), rel=1e-6
    )


# Pictures in and boxes out


def noise_image(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def test_preprocessing_equals_transformers() -> None:
    images = [noise_image(48, 64), noise_image(90, 40, 1), noise_image(30, 100, 2)]
    processor = DetrImageProcessorPil(size={"shortest_edge": 80, "longest_edge": 133})
    want = processor(images, return_tensors="pt")
    pixel_values, pixel_mask = preprocess(images, 80, 133)
    assert pixel_values.shape == want["pixel_values"].shape
    assert gap(pixel_values, want["pixel_values"]) < 1e-5
    assert torch.equal(pixel_mask, want["pixel_mask"].bool())


def test_postprocessing_equals_transformers() -> None:
    torch.manual_seed(0)
    output = Detr(config_from_published(SMALL)).eval()(torch.randn(2, 3, 64, 96))
    sizes = [(480, 640), (300, 200)]
    want = DetrImageProcessorPil().post_process_object_detection(output, 0.3, sizes)
    got = postprocess(output, sizes, 0.3, {0: "cat", 1: "dog"})
    assert sum(len(image) for image in got) > 0
    for ours, theirs in zip(got, want, strict=True):
        order = theirs["scores"].argsort(descending=True)
        assert [d.score for d in ours] == pytest.approx(
            theirs["scores"][order].tolist()
        )
        assert [d.label for d in ours] == theirs["labels"][order].tolist()
        assert [d.name for d in ours] == [("cat", "dog")[d.label] for d in ours]
        boxes = torch.tensor([d.box for d in ours])
        assert gap(boxes, theirs["boxes"][order]) < 1e-3


def test_merging_equals_transformers() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(1, 12, 5, generator=generator)
    coarse = 4 * torch.randn(1, 12, 4, 5, generator=generator)
    masks = nn.functional.interpolate(coarse, (16, 20), mode="bilinear")
    output = type("Output", (), {"logits": logits, "pred_masks": masks})
    for overlap in (0.0, 0.3, 0.8):
        want = DetrImageProcessorPil().post_process_panoptic_segmentation(
            output, 0.5, 0.5, overlap, set(), [(33, 47)]
        )[0]
        image, segments = merge_masks(logits[0], masks[0], (33, 47), 0.5, overlap)
        assert torch.equal(image, want["segmentation"])
        assert [s.label for s in segments] == [
            s["label_id"] for s in want["segments_info"]
        ]
        if overlap == 0.0:
            assert len(segments) > 3


def spans(*columns: tuple[int, int]) -> Tensor:
    """Masks of one row of 20 pixels, as logits."""
    masks = torch.full((len(columns), 1, 20), -9.0)
    for mask, (first, end) in zip(masks, columns, strict=True):
        mask[0, first:end] = 9
    return masks


def test_stuff_is_one_segment() -> None:
    """A thing in front of the sky, which two queries see left and right of it."""
    probabilities = torch.tensor(
        [[0.96, 0.02, 0.02], [0.02, 0.95, 0.03], [0.94, 0, 0.06]]
    )
    masks, size = spans((0, 8), (8, 12), (12, 20)), (1, 20)
    image, segments = merge_masks(probabilities.log(), masks, size)
    assert image.tolist() == [[1] * 8 + [2] * 4 + [3] * 8]
    assert [(s.id, s.label) for s in segments] == [(1, 0), (2, 1), (3, 0)]
    for stuff in ({0}, {0, 1}):
        image, segments = merge_masks(
            probabilities.log(), masks, size, stuff=frozenset(stuff)
        )
        assert image.tolist() == [[1] * 8 + [2] * 4 + [1] * 8]
        assert [(s.id, s.label) for s in segments] == [(1, 0), (2, 1)]


@pytest.mark.parametrize(
    ("score", "hidden", "kept"),
    [(0.9, 2, True), (0.9, 3, False), (0.86, 0, True), (0.84, 0, False)],
)
def test_defaults_of_merging(score: float, hidden: int, kept: bool) -> None:
    """The second mask wins 10 pixels; some more of its own lie behind the first."""
    rows = torch.tensor([[0.95, 0.05], [score, 1 - score]])
    masks = spans((0, 10), (10 - hidden, 20))
    _, segments = merge_masks(rows.log(), masks, (1, 20))
    assert [each.id for each in segments] == [1, 2][: 1 + kept]
