"""Prompts to what the UNet reads of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from underhood.stable_diffusion.clip_text import CLIPTextModel
from underhood.stable_diffusion.options import Options
from underhood.stable_diffusion.tokenizer import CLIPTokenizer


def encode_prompts(
    prompt: str | Sequence[str],
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    options: Options,
) -> Tensor:
    """The words of all pictures: (batch, length, width), float32.

    With guidance, those of the negative prompts come first: (2 · batch, length, width).

    Raises:
        ValueError: no prompt, or another number of negative prompts.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts:
        raise ValueError("prompt: got an empty list; at least one text is needed")
    texts = prompts
    if options.guided:
        negative = options.negative_prompt
        if negative is None:
            negative = ""
        if isinstance(negative, str):
            negative = [negative] * len(prompts)
        if len(negative) != len(prompts):
            raise ValueError(
                f"negative_prompt: got {len(negative)} of them; 1, or {len(prompts)}, "
                f"as there are prompts, is needed"
            )
        texts = [*negative, *prompts]
    for text in texts:
        warn_if_cut(text, tokenizer)
    device = text_encoder.final_layer_norm.weight.device
    words = text_encoder(tokenizer(texts).to(device), clip_skip=options.clip_skip)
    states = words.last_hidden_state.float()
    return torch.repeat_interleave(states, options.num_images_per_prompt, dim=0)


def warn_if_cut(text: str, tokenizer: CLIPTokenizer) -> None:
    """Tell which words nobody will read."""
    numbers, room = tokenizer.encode(text), tokenizer.model_max_length - 2
    if len(numbers) > room:
        lost = tokenizer.decode(numbers[room:])
        warnings.warn(
            f"prompt: {len(numbers)} tokens; only {room} are read, without: {lost}",
            stacklevel=2,
        )
