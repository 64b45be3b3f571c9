"""DETR: object detection as the prediction of a set.

>>> import torch
>>> from underhood.detr import Detr, DetrConfig
>>> with torch.device("meta"):
...     model = Detr(DetrConfig())
>>> sum(parameter.numel() for parameter in model.parameters())
41524768
"""

from underhood.detr.assignment import Assignment, assign, greedy
from underhood.detr.boxes import (
    area,
    box_iou,
    cxcywh_to_xyxy,
    generalized_box_iou,
    xyxy_to_cxcywh,
)
from underhood.detr.coco import average_precision, detections, ground_truth
from underhood.detr.coco_files import CocoDataset, CocoImage, load_coco, save_results
from underhood.detr.config import DetrConfig, config_from_published
from underhood.detr.criterion import SetCriterion, total_loss
from underhood.detr.images import (
    Detection,
    detect,
    postprocess,
    preprocess,
    resized_size,
)
from underhood.detr.keys import published_names
from underhood.detr.matcher import Target, hungarian_match, matching_cost
from underhood.detr.model import Detr, DetrOutput
from underhood.detr.panoptic import (
    DetrPanoptic,
    dice_loss,
    merge_masks,
    sigmoid_focal_loss,
)
from underhood.detr.recipe import DIGITS, fresh_model
from underhood.detr.scenes import SIZE, Scenes, make_scenes
from underhood.detr.transformer import sine_positions

__all__ = [
    "DIGITS",
    "SIZE",
    "Assignment",
    "CocoDataset",
    "CocoImage",
    "Detection",
    "Detr",
    "DetrConfig",
    "DetrOutput",
    "DetrPanoptic",
    "Scenes",
    "SetCriterion",
    "Target",
    "area",
    "assign",
    "average_precision",
    "box_iou",
    "config_from_published",
    "cxcywh_to_xyxy",
    "detect",
    "detections",
    "dice_loss",
    "fresh_model",
    "generalized_box_iou",
    "greedy",
    "ground_truth",
    "hungarian_match",
    "load_coco",
    "make_scenes",
    "matching_cost",
    "merge_masks",
    "postprocess",
    "preprocess",
    "published_names",
    "resized_size",
    "save_results",
    "sigmoid_focal_loss",
    "sine_positions",
    "total_loss",
    "xyxy_to_cxcywh",
]
