"""Fixtures that several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinybook import TinyBook


@pytest.fixture
def tiny_book(tmp_path: Path) -> TinyBook:
    return TinyBook(tmp_path)
