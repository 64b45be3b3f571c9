"""detr: boxes, assignment, matching, losses, the transformer's positions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from underhood.detr import (
    Detr,
    DetrConfig,
    SetCriterion,
    assign,
    box_iou,
    cxcywh_to_xyxy,
    generalized_box_iou,
    greedy,
    hungarian_match,
    matching_cost,
    resized_size,
    sine_positions,
    xyxy_to_cxcywh,
)
from underhood.detr.boxes import paired_giou
from underhood.detr.matcher import Target
from underhood.detr.transformer import Attention, DecoderLayer, EncoderLayer

TINY = DetrConfig(
    num_labels=3, num_queries=6, d_model=16, num_heads=2, encoder_layers=1,
    decoder_layers=2, ffn_dim=16, dropout=0.0, depths=(1, 1), widths=(8, 16),
    stem_width=8, bottleneck=False,
)  # fmt: skip


class Output:
    """Predictions without a model."""

    def __init__(self, logits: Tensor, pred_boxes: Tensor) -> None:
        self.logits, self.pred_boxes = logits, pred_boxes


def boxes(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# Boxes


@pytest.mark.parametrize(
    ("first", "second", "iou", "giou"),
    [
        ((0, 0, 1, 1), (0, 0, 1, 1), 1, 1),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7, 1 / 7 - 2 / 9),
        ((0, 0, 1, 1), (2, 0, 3, 1), 0, -1 / 3),
        ((0, 0, 1, 1), (2, 2, 3, 3), 0, -7 / 9),
        ((0, 0, 4, 4), (1, 1, 2, 2), 1 / 16, 1 / 16),  # inside: no empty hull
        ((0, 0, 0, 0), (0, 0, 0, 0), 0, 0),  # no area at all, and no division by it
    ],
)
def test_giou_by_hand(
    first: tuple[float, ...], second: tuple[float, ...], iou: float, giou: float
) -> None:
    a, b = boxes(first), boxes(second)  # type: ignore[arg-type]
    assert box_iou(a, b)[0].item() == pytest.approx(iou, abs=1e-12)
    assert generalized_box_iou(a, b).item() == pytest.approx(giou, abs=1e-12)
    assert paired_giou(a, b).item() == pytest.approx(giou, abs=1e-12)


def test_giou_of_boxes_without_area() -> None:
    """They have no IoU: 0 if equal, -1 if not, and never below."""
    points = boxes((0.5, 0.5, 0.5, 0.5), (0.7, 0.7, 0.7, 0.7))
    assert generalized_box_iou(points, points).tolist() == [[0, -1], [-1, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_areas_are_computed_in_single_precision(dtype: torch.dtype) -> None:
    """In float16 the area of a box of side 0.002 is 4e-6: two digits are left."""
    side = 2 if dtype == torch.int64 else 0.002
    box = torch.tensor([[0, 0, side, side]], dtype=dtype)
    assert box_iou(box, box)[0].dtype == torch.float32
    assert box_iou(box, box)[0].item() == pytest.approx(1)
    assert generalized_box_iou(box, box).item() == pytest.approx(1)


def test_iou_by_counting_cells() -> None:
    """Boxes on a grid: the areas are counted, not computed."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        corners = np.sort(generator.integers(0, 12, (2, 2, 2)), axis=1)
        corners[:, 1] += 1
        masks = []
        for (x0, y0), (x1, y1) in corners:
            mask = np.zeros((14, 14), bool)
            mask[y0:y1, x0:x1] = True
            masks.append(mask)
        union = (masks[0] | masks[1]).sum()
        low, high = corners[:, 0].min(0), corners[:, 1].max(0)
        iou = (masks[0] & masks[1]).sum() / union
        giou = iou - 1 + union / (high - low).prod()
        a, b = torch.tensor(corners.reshape(2, 1, 4), dtype=torch.float64)
        assert box_iou(a, b)[0].item() == pytest.approx(iou)
        assert generalized_box_iou(a, b).item() == pytest.approx(giou)


def test_formats_are_inverse() -> None:
    corners = boxes((0.1, 0.2, 0.5, 0.4), (0, 0, 1, 1))
    assert xyxy_to_cxcywh(corners)[0].tolist() == pytest.approx([0.3, 0.3, 0.4, 0.2])
    assert torch.allclose(cxcywh_to_xyxy(xyxy_to_cxcywh(corners)), corners)
    for shape in ((4,), (2, 1, 4)):
        some = corners.flatten()[: math.prod(shape)].view(shape)
        assert torch.allclose(cxcywh_to_xyxy(xyxy_to_cxcywh(some)), some)


@pytest.mark.parametrize(
    "bad", [(0.5, 0, 0.4, 1), (0, 1, 1, 0.9), (0, 0, math.nan, 1), (0, 0, math.inf, 1)]
)
def test_degenerate_boxes_are_refused(bad: tuple[float, ...]) -> None:
    good = boxes((0, 0, 1, 1))
    with pytest.raises(ValueError, match=r"second must be .* box 1"):
        generalized_box_iou(good, torch.cat([good, boxes(bad)]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="4 numbers"):
        cxcywh_to_xyxy(torch.zeros(3))


# The assignment problem


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(0, 12),
    extra=st.integers(0, 8),
    seed=st.integers(0, 10**6),
    ties=st.booleans(),
)
def test_assignment_equals_scipy(rows: int, extra: int, seed: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    cost = generator.normal(size=(rows, rows + extra))
    if ties:
        cost = cost.round(0)
    found = assign(cost)
    assert sorted(set(found.columns.tolist())) == sorted(found.columns.tolist())
    i, j = linear_sum_assignment(cost)
    total = cost[np.arange(rows), found.columns].sum()
    assert total == pytest.approx(cost[i, j].sum(), abs=1e-9)
    left = cost - found.row_price[:, None] - found.column_price
    assert left.min(initial=0) > -1e-9  # the prices prove it
    assert found.column_price.max(initial=0) <= 0  # also if columns stay free
    chosen = left[np.arange(rows), found.columns]
    assert np.abs(chosen).max(initial=0) < 1e-9
    free = np.setdiff1d(np.arange(rows + extra), found.columns)
    assert np.abs(found.column_price[free]).max(initial=0) < 1e-9


def test_greedy_is_not_optimal() -> None:
    cost = np.array([[1, 2], [1.5, 9]])
    assert greedy(cost).tolist() == [0, 1]
    assert assign(cost).columns.tolist() == [1, 0]


@pytest.mark.parametrize("cost", [np.zeros((3, 2)), np.zeros(3), np.array([[np.nan]])])
def test_assignment_refuses(cost: np.ndarray) -> None:
    for solve in (assign, greedy):
        with pytest.raises(ValueError, match="cost must be"):
            solve(cost)


# Matching


def test_matching_uses_the_probability() -> None:
    """Worked by hand; with the logarithm the other query would be taken.

    Query 0 has the right box and p = 0.01; query 1 is off by 0.2 and has p = 0.99.
    Costs: -0.01 + 0 - 2 = -2.01 against -0.99 + 5 * 0.2 - 2 * GIoU.
    """
    target = Target(
        class_labels=torch.tensor([0]), boxes=torch.tensor([[0.5, 0.5, 0.4, 0.4]])
    )
    probability = torch.tensor([[0.01, 0.99], [0.99, 0.01]])
    pred = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.7, 0.5, 0.4, 0.4]])
    output = Output(probability.log()[None], pred[None])
    giou = 1 / 3  # half of each: 0.08 / (0.32 - 0.08), and no empty hull
    cost = matching_cost(
        output.logits, output.pred_boxes, target["class_labels"][None],
        target["boxes"][None],
    )  # fmt: skip
    assert cost[0, :, 0].tolist() == pytest.approx([-2.01, -0.99 + 1 - 2 * giou])
    (queries, objects) = hungarian_match(output, [target])[0]
    assert (queries.tolist(), objects.tolist()) == ([0], [0])
    by_logarithm = -probability[:, 0].log() + cost[0, :, 0] + probability[:, 0]
    assert by_logarithm.argmin() == 1


def test_matching_and_loss_do_not_know_the_order() -> None:
    torch.manual_seed(0)
    output = Output(torch.randn(2, 9, 4), torch.rand(2, 9, 4) * 0.4 + 0.3)
    targets = [
        Target(class_labels=torch.randint(3, (n,)), boxes=torch.rand(n, 4) * 0.3 + 0.3)
        for n in (4, 2)
    ]
    order = torch.randperm(9)
    shuffled = Output(output.logits[:, order], output.pred_boxes[:, order])
    criterion = SetCriterion(3)
    for name, value in criterion.one_layer(output, targets).items():
        assert torch.allclose(value, criterion.one_layer(shuffled, targets)[name])
    reverse = [
        Target(class_labels=t["class_labels"].flip(0), boxes=t["boxes"].flip(0))
        for t in targets
    ]
    for name, value in criterion.one_layer(output, targets).items():
        assert torch.allclose(value, criterion.one_layer(output, reverse)[name])


@pytest.mark.parametrize(
    ("labels", "rows", "message"),
    [
        ([3], [[0.5, 0.5, 0.1, 0.1]], r"targets\[0\]: class_labels .* got 3"),
        ([-1], [[0.5, 0.5, 0.1, 0.1]], r"targets\[0\]: class_labels"),
        ([0], [[0.5, 0.5, 0.0, 0.1]], r"targets\[0\]: boxes .* area"),
        ([0], [[50, 50, 10, 10]], r"targets\[0\]: boxes .* shares"),
        ([0, 1], [[0.5, 0.5, 0.1, 0.1]], r"targets\[0\]: boxes must be \(2, 4\)"),
    ],
)
def test_bad_targets(labels: list[int], rows: list[list[float]], message: str) -> None:
    output = Output(torch.zeros(1, 5, 4), torch.full((1, 5, 4), 0.5))
    target = Target(class_labels=torch.tensor(labels), boxes=torch.tensor(rows))
    with pytest.raises(ValueError, match=message):
        hungarian_match(output, [target])
    with pytest.raises(ValueError, match="one per image"):
        hungarian_match(output, [])
    with pytest.raises(ValueError, match="cost_class"):
        hungarian_match(output, [target], 0, 0, 0)


@pytest.mark.parametrize("labels", [torch.tensor([]), torch.tensor([1]).int()])
def test_labels_of_another_type(labels: Tensor) -> None:
    output = Output(torch.zeros(1, 5, 4), torch.full((1, 5, 4), 0.5))
    target = Target(class_labels=labels, boxes=torch.full((len(labels), 4), 0.5))
    with pytest.raises(ValueError, match=r"targets\[0\]: class_labels must be int64"):
        hungarian_match(output, [target])


@pytest.mark.parametrize("part", ["logits", "pred_boxes"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_that_are_not_finite(part: str, bad: float) -> None:
    output = Output(torch.zeros(1, 5, 4), torch.full((1, 5, 4), 0.5))
    getattr(output, part)[0, 2, 1] = bad
    target = Target(class_labels=torch.tensor([0]), boxes=torch.full((1, 4), 0.5))
    with pytest.raises(ValueError, match=f"outputs: {part} must be finite"):
        hungarian_match(output, [target])


def test_a_criterion_for_other_classes() -> None:
    output = Output(torch.zeros(1, 5, 4), torch.full((1, 5, 4), 0.5))
    target = Target(class_labels=torch.tensor([0]), boxes=torch.full((1, 4), 0.5))
    for num_labels in (2, 9):
        want = rf"logits must have num_labels \+ 1 = {num_labels + 1} .* \(1, 5, 4\)"
        with pytest.raises(ValueError, match=want):
            SetCriterion(num_labels).one_layer(output, [target])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_of_other_types(dtype: torch.dtype) -> None:
    """Whatever the model's numbers are, the loss is computed in float32 at least."""
    torch.manual_seed(0)
    output = Output(
        torch.randn(2, 5, 4).to(dtype), (torch.rand(2, 5, 4) * 0.4 + 0.3).to(dtype)
    )
    single = Output(output.logits.float(), output.pred_boxes.float())
    target = Target(class_labels=torch.tensor([0]), boxes=torch.full((1, 4), 0.5))
    got, want = (
        SetCriterion(3).one_layer(each, [target] * 2) for each in (output, single)
    )
    for name, value in got.items():
        assert value.item() == pytest.approx(want[name].item(), rel=1e-6)


def test_an_object_may_fill_its_image() -> None:
    whole = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.0, 1.0, 0.1, 0.1]])
    output = Output(torch.zeros(1, 2, 4), whole[None])
    target = Target(class_labels=torch.tensor([0, 2]), boxes=whole)
    assert hungarian_match(output, [target])[0][1].tolist() == [0, 1]


def test_no_object_weight_by_hand() -> None:
    """Two queries, one object. Weighted mean of -log p, "no object" counting 0.1."""
    p = torch.tensor([[[0.7, 0.2, 0.1], [0.3, 0.1, 0.6]]])
    boxes_ = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]])
    target = Target(class_labels=torch.tensor([0]), boxes=boxes_[0, :1])
    losses = SetCriterion(2).one_layer(Output(p.log(), boxes_), [target])
    want = (-math.log(0.7) - 0.1 * math.log(0.6)) / 1.1
    assert losses["loss_ce"].item() == pytest.approx(want, rel=1e-6)
    assert losses["loss_bbox"].item() == 0
    assert losses["loss_giou"].item() == pytest.approx(0, abs=1e-6)
    assert losses["cardinality_error"].item() == 0


# The transformer


def test_positions_by_definition() -> None:
    mask = torch.ones(2, 5, 7, dtype=torch.bool)
    mask[1, 3:] = False
    mask[1, :, 4:] = False
    got = sine_positions(mask, 24)
    for image, rows, columns in ((0, 5, 7), (1, 3, 4)):
        for y in range(rows):
            for x in range(columns):
                want = []
                for place, count in ((y, rows), (x, columns)):
                    turn = (place + 1) / count * 2 * math.pi
                    for pair in range(6):
                        angle = turn / 10000 ** (2 * pair / 12)
                        want += [math.sin(angle), math.cos(angle)]
                assert got[image, y, x].tolist() == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("d_model", [5, 6, 10, 0])
def test_positions_need_pairs_for_both_axes(d_model: int) -> None:
    with pytest.raises(ValueError, match=f"d_model must be .* 4, got {d_model}"):
        sine_positions(torch.ones(1, 2, 2, dtype=torch.bool), d_model)


def test_positions_are_on_queries_and_keys_only() -> None:
    """Against torch.nn.MultiheadAttention, with the weights copied."""
    torch.manual_seed(0)
    layer = EncoderLayer(TINY).eval()
    theirs = as_torch(layer.self_attn)
    x, positions = torch.randn(2, 9, 16), torch.randn(2, 9, 16)
    want = theirs(x + positions, x + positions, x, need_weights=False)[0]
    want = layer.feed_forward(layer.self_attn_layer_norm(x + want))
    assert torch.allclose(layer(x, positions), want, atol=1e-6)


def as_torch(attention: Attention) -> nn.MultiheadAttention:
    size, heads = attention.q_proj.in_features, attention.num_heads
    theirs = nn.MultiheadAttention(size, heads, batch_first=True)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    theirs.in_proj_weight.data = torch.cat([p.weight.data for p in projections])
    theirs.in_proj_bias.data = torch.cat([p.bias.data for p in projections])
    theirs.out_proj.load_state_dict(attention.out_proj.state_dict())
    return theirs.eval()


def test_decoder_layer_equals_torch() -> None:
    torch.manual_seed(0)
    layer = DecoderLayer(TINY).eval()
    x, places = torch.randn(2, 6, 16), torch.randn(2, 6, 16)
    memory, positions = torch.randn(2, 9, 16), torch.randn(2, 9, 16)
    mask = torch.rand(2, 1, 1, 9) > 0.3
    placed = x + places
    attended = as_torch(layer.self_attn)(placed, placed, x)[0]
    want = layer.self_attn_layer_norm(x + attended)
    attended = as_torch(layer.encoder_attn)(
        want + places, memory + positions, memory, key_padding_mask=~mask[:, 0, 0]
    )[0]
    want = layer.feed_forward(layer.encoder_attn_layer_norm(want + attended))
    got = layer(x, places, memory, positions, mask)
    assert torch.allclose(got, want, atol=1e-6)
    record: list[Tensor] = []
    again = layer(x, places, memory, positions, mask, record=record)
    assert torch.allclose(again, want, atol=1e-6)
    assert not record[0][(~mask).expand_as(record[0])].any()


def test_padding_does_not_change_the_result() -> None:
    """A scene in a larger, padded batch: the transformer sees the same cells."""
    torch.manual_seed(0)
    model = Detr(TINY).eval()
    features = torch.randn(1, 16, 4, 4)
    padded = torch.randn(1, 16, 6, 7)
    padded[..., :4, :4] = features
    inside = torch.zeros(1, 6, 7, dtype=torch.bool)
    inside[:, :4, :4] = True
    whole = torch.ones(1, 4, 4, dtype=torch.bool)
    states = []
    for x, mask in ((features, whole), (padded, inside)):
        memory, positions = model.model.encode(x, mask)
        states.append(model.model.decode(memory, positions, mask))
    assert torch.allclose(*states, atol=1e-5)


def test_first_self_attention_cannot_see_the_image() -> None:
    torch.manual_seed(0)
    layer = Detr(TINY).eval().model.decoder.layers[0]
    places = torch.randn(1, 6, 16)
    out = layer.talk(torch.zeros(1, 6, 16), places)
    assert torch.allclose(out, out[:, :1].expand_as(out), atol=1e-6)  # one constant


def test_bad_input_of_the_model() -> None:
    model = Detr(TINY)
    with pytest.raises(ValueError, match=r"pixel_values must be \(batch, 3"):
        model(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match="pixel_mask must be"):
        model(torch.zeros(1, 3, 32, 32), torch.ones(1, 16, 16))
    with pytest.raises(ValueError, match="d_model must be a multiple of num_heads"):
        DetrConfig(d_model=30, num_heads=8)
    with pytest.raises(ValueError, match="depths and widths"):
        DetrConfig(depths=(1,))


@pytest.mark.parametrize(
    ("size", "want"),
    [
        ((480, 640), (800, 1066)),
        ((640, 480), (1066, 800)),
        ((427, 640), (800, 1199)),
        ((300, 900), (444, 1333)),
        ((800, 1200), (800, 1200)),
        ((320, 640), (666, 1333)),  # the authors: (666, 1332)
        ((10000, 1), (1333, 1)),
        ((1, 10000), (1, 1333)),
    ],
)
def test_resized_size(size: tuple[int, int], want: tuple[int, int]) -> None:
    assert resized_size(*size) == want
