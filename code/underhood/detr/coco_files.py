"""Datasets and results in COCO's JSON, read with care.

Source: https://cocodataset.org/#format-data and #format-results.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from underhood.detr.boxes import xyxy_to_cxcywh
from underhood.detr.images import Detection
from underhood.detr.matcher import Target


@dataclass(frozen=True)
class CocoImage:
    """
    Attributes:
        id: As in the file. width, height: Pixels.
        target: What the loss takes; crowds are left out, as they have no one box.
        crowds: Boxes (x, y, width, height) of areas that evaluation ignores.
    """

    id: int
    file_name: str
    width: int
    height: int
    target: Target
    crowds: list[list[float]]


@dataclass(frozen=True)
class CocoDataset:
    """
    Attributes:
        images: All of the file, also those without annotations.
        names: The name of each category by its id.
    """

    images: list[CocoImage]
    names: dict[int, str]


def load_coco(path: str | Path) -> CocoDataset:
    """Read an `instances_*.json`.

    Boxes are cut at the edge of their image; one that has no area left is dropped,
    as DETR does. Labels are the ids of the categories, gaps and all.

    Raises:
        ValueError: naming the annotation, image or key that is wrong.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise ValueError(f"{path.name}: {key!r} must be a list")
    names = {
        _number(each, "id", f"categories[{i}]"): str(each.get("name", each["id"]))
        for i, each in enumerate(data["categories"])
    }
    images = [_image(each, i) for i, each in enumerate(data["images"])]
    sizes = {image_id: (width, height) for image_id, _, width, height in images}
    if len(sizes) != len(images):
        raise ValueError(f"{path.name}: two images have the same id")
    boxes: dict[int, list[tuple[int, list[float], bool]]] = {i: [] for i in sizes}
    seen: set[int] = set()
    for index, each in enumerate(data["annotations"]):
        where = f"annotations[{index}]"
        number = _number(each, "id", where)
        where += f" (id {number})"
        if number in seen:
            raise ValueError(f"{where}: the id is used twice")
        seen.add(number)
        image_id, row = _annotation(each, where, sizes, names)
        boxes[image_id].append(row)
    rows = [_with_target(*image, boxes[image[0]]) for image in images]
    return CocoDataset(rows, names)


def _number(entry: Any, key: str, where: str) -> int:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{where}: {key!r} must be an integer, got {value!r}")
    return value


def _image(entry: Any, index: int) -> tuple[int, str, int, int]:
    where = f"images[{index}]"
    number = _number(entry, "id", where)
    width, height = (_number(entry, key, where) for key in ("width", "height"))
    if width < 1 or height < 1:
        raise ValueError(f"{where} (id {number}): size must be positive")
    return number, str(entry.get("file_name", "")), width, height


def _annotation(
    entry: dict[str, Any],
    where: str,
    sizes: dict[int, tuple[int, int]],
    names: dict[int, str],
) -> tuple[int, tuple[int, list[float], bool]]:
    image_id = _number(entry, "image_id", where)
    if image_id not in sizes:
        raise ValueError(f"{where}: image_id {image_id} is not among the images")
    label = _number(entry, "category_id", where)
    if label not in names:
        raise ValueError(f"{where}: category_id {label} is not among the categories")
    if label < 0:
        raise ValueError(f"{where}: category_id must not be negative, got {label}")
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise ValueError(f"{where}: 'iscrowd' must be 0 or 1, got {crowd!r}")
    box = entry.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))):
        raise ValueError(f"{where}: 'bbox' must be [x, y, width, height], got {box!r}")
    if box[2] < 0 or box[3] < 0:
        raise ValueError(f"{where}: 'bbox' must not have a negative size, got {box}")
    return image_id, (label, [float(value) for value in box], bool(crowd))


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _with_target(
    number: int,
    file_name: str,
    width: int,
    height: int,
    rows: list[tuple[int, list[float], bool]],
) -> CocoImage:
    size = torch.tensor([width, height] * 2, dtype=torch.float32)
    singles = [row for row in rows if not row[2]]
    corners = torch.tensor([box for _, box, _ in singles]).view(-1, 4)
    corners[:, 2:] += corners[:, :2]
    corners = torch.minimum(corners.clamp(min=0), size)
    keep = (corners[:, 2:] > corners[:, :2]).all(-1)
    labels = torch.tensor([label for label, _, _ in singles], dtype=torch.long)
    target = Target(
        class_labels=labels[keep], boxes=xyxy_to_cxcywh(corners[keep]) / size
    )
    crowds = [box for _, box, crowd in rows if crowd]
    return CocoImage(number, file_name, width, height, target, crowds)


def save_results(
    path: str | Path, images: list[CocoImage], found: list[list[Detection]]
) -> None:
    """Write detections as COCO takes them: one flat list, all of it or no file."""
    path = Path(path)
    rows = []
    for image, detections in zip(images, found, strict=True):
        for each in detections:
            x0, y0, x1, y1 = each.box
            box = [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)]
            rows.append({"image_id": image.id, "category_id": each.label,
                         "bbox": box, "score": round(each.score, 5)})  # fmt: skip
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(json.dumps(rows), encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
