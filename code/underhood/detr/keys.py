"""One checkpoint, several spellings of its names.

The folders on Hugging Face name the backbone as timm does. What transformers 5 saves
of a model with its own ResNet names the backbone its own way; what it holds in memory
differs again. All become the published names, which are ours.
"""

from __future__ import annotations

import re

from torch import Tensor

_PUBLISHED_RESNET = "backbone.conv_encoder.model."

# (pattern, replacement), applied in this order.
_RENAMES = [
    (r"\bbackbone\.model\.", _PUBLISHED_RESNET),
    (r"\bo_proj\.", "out_proj."),
    (r"\bmlp\.(fc[12])\.", r"\1."),
    (r"\bbbox_attention\.([qk])_proj\.", r"bbox_attention.\1_linear."),
    (r"\bmask_head\.conv([12])\.conv\.", r"mask_head.lay\1."),
    (r"\bmask_head\.conv([12])\.norm\.", r"mask_head.gn\1."),
    (r"\bmask_head\.output_conv\.", "mask_head.out_lay."),
    (r"\bmodel\.embedder\.embedder\.convolution\.", "model.conv1."),
    (r"\bmodel\.embedder\.embedder\.normalization\.", "model.bn1."),
]


def _stage_key(match: re.Match[str]) -> str:
    """encoder.stages.S.layers.B.layer.N.kind to layerS+1.B.convN+1, and so on."""
    stage, block, rest = int(match[1]) + 1, match[2], match[3]
    if rest.startswith("shortcut."):
        part = rest.removeprefix("shortcut.")
        part = part.replace("convolution", "downsample.0")
        part = part.replace("normalization", "downsample.1")
    else:
        index, _, part = rest.removeprefix("layer.").partition(".")
        number = str(int(index) + 1)
        part = part.replace("convolution", "conv" + number)
        part = part.replace("normalization", "bn" + number)
    return f"model.layer{stage}.{block}.{part}"


def _fpn(match: re.Match[str]) -> str:
    """mask_head.fpn_stages.N.*: adapter N+1 and block N+3."""
    index, part = int(match[1]), match[2]
    if part == "fpn_adapter":
        return f"mask_head.adapter{index + 1}."
    kind = {"refine.conv": "lay", "refine.norm": "gn"}[part]
    return f"mask_head.{kind}{index + 3}."


def published_name(name: str) -> str:
    """The published name of a parameter, from any of the spellings."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    name = re.sub(
        r"\bmodel\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(.+)", _stage_key, name
    )
    return re.sub(
        r"\bmask_head\.fpn_stages\.(\d+)\.(fpn_adapter|refine\.conv|refine\.norm)\.",
        _fpn,
        name,
    )


def published_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All tensors under their published names.

    The counters of batch norm are left out, which the published files still carry:
    a frozen batch norm counts nothing.
    """
    return {
        published_name(name): value
        for name, value in tensors.items()
        if not name.endswith(".num_batches_tracked")
    }
