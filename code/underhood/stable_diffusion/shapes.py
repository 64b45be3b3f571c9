"""What shapes a UNet makes on its way, measured on the meta device, without numbers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from underhood.stable_diffusion.unet import UNet2DConditionModel


@dataclass(frozen=True)
class Stage:
    """One block of a UNet.

    Attributes:
        name: in the module.
        shape: (channels, height, width) of its output. parameters: how many.
        attention: with attention on the words.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    attention: bool


def parameter_count(module: nn.Module) -> int:
    """All weights and biases of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def stages(unet: UNet2DConditionModel, words: int = 77) -> list[Stage]:
    """Every block in the order in which it runs, for one latent of the usual size.

    Args:
        unet: on the meta device, so that nothing is computed.
    """
    found: list[Stage] = []

    def watch(name: str, block: nn.Module) -> None:
        def note(module: nn.Module, _: object, output: Tensor | tuple) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            attends = hasattr(module, "attentions")
            shape = tuple(tensor.shape[1:])
            found.append(Stage(name, shape, parameter_count(module), attends))

        handles.append(block.register_forward_hook(note))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    watch("conv_in", unet.conv_in)
    for i, block in enumerate(unet.down_blocks):
        watch(f"down_blocks.{i}", block)
    watch("mid_block", unet.mid_block)
    for i, block in enumerate(unet.up_blocks):
        watch(f"up_blocks.{i}", block)
    watch("conv_out", unet.conv_out)
    size, config = unet.config["sample_size"], unet.config
    latent = torch.empty(1, config["in_channels"], size, size, device="meta")
    context = torch.empty(1, words, config["cross_attention_dim"], device="meta")
    try:
        unet(latent, 0, context)
    finally:
        for handle in handles:
            handle.remove()
    return found


def key_digest(module: nn.Module) -> str:
    """SHA-256 of all keys of the `state_dict` with their shapes, in sorted order.

    Two modules with the same digest take each other's weights.
    """
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    lines = "\n".join(f"{key} {shapes[key]}" for key in sorted(shapes))
    return hashlib.sha256(lines.encode()).hexdigest()
