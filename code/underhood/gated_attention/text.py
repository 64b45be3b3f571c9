"""Real text that every machine has: the source of Python's own standard library."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

TRAINING = ("argparse", "difflib", "doctest", "inspect", "pdb", "tarfile", "typing")
VALIDATION = ("calendar", "configparser", "textwrap")


def bytes_of_modules(names: tuple[str, ...]) -> Tensor:
    """The source of modules, one after the other: (bytes,), int64, 0 to 255.

    Raises:
        ValueError: a name is no module, or one without a source file.
    """
    files = []
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise ValueError(f"names: {name!r} has no source file")
        files.append(Path(spec.origin).read_bytes().replace(b"\r\n", b"\n"))
    return torch.tensor(list(b"".join(files)))


def check_longer(name: str, text: Tensor, length: int) -> None:
    """Raises ValueError if no window of `length` inputs and targets fits in."""
    if text.numel() <= length:
        raise ValueError(
            f"{name}: got {text.numel()} bytes; more than length, {length}, are needed"
        )


def windows(text: Tensor, length: int, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets, one byte apart: two (len(starts), length)."""
    check_longer("text", text, length)
    rows = text[starts[:, None] + torch.arange(length + 1)]
    return rows[:, :-1], rows[:, 1:]
