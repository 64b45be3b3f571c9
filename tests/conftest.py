"""Fixtures that several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tinybook import TinyBook

# Triton reads this once, when it is imported, and parts of torch import it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def tiny_book(tmp_path: Path) -> TinyBook:
    return TinyBook(tmp_path)
