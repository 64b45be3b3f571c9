"""`make book`: it builds when something changed, and only then, until it succeeds."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

TICK = 0.02  # seconds; a file system may keep times no finer than the kernel's clock
MAKEFILE = Path(__file__).parents[1] / "Makefile"
BUILDER = """#!/bin/sh
echo built >> calls
mkdir -p _build/html
grep -qr false book && exit 1
exit 0
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What the rule looks at, with a builder that notes its calls."""
    if shutil.which("make") is None:
        pytest.skip("no make: apt install make")
    for name in (
        "requirements.txt",
        "requirements-weights.txt",
        "pyproject.toml",
        "package-lock.json",
        "_config.yml",
        "_toc.yml",
        "book/page.md",
        "book/old.md",
        "code/topic/part.py",
        "benchmarks/results/cpu/numbers.json",
        ".venv/lib/python3.11/site-packages/torch/__init__.py",
        ".venv/bin/jupyter-book",
        ".venv/.installed",
        "node_modules/.installed",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    shutil.copy(MAKEFILE, tmp_path)
    (tmp_path / ".venv/bin/jupyter-book").write_text(BUILDER)
    (tmp_path / ".venv/bin/jupyter-book").chmod(0o755)
    past = time.time() - 100
    for path in [*tmp_path.rglob("*"), tmp_path]:
        os.utime(path, (past, past))
    for stamp in (".venv/.installed", "node_modules/.installed"):
        os.utime(tmp_path / stamp, (past + 1, past + 1))
    return tmp_path


def builds(project: Path) -> tuple[int, int]:
    """Run `make book`: its exit status, and how many builds there were so far."""
    # Without what the make around these tests was told, a REQUIREMENTS, say.
    path = {"PATH": os.environ["PATH"]}
    ran = subprocess.run(
        ["make", "book"], cwd=project, env=path, capture_output=True, text=True
    )
    calls = project / "calls"
    return ran.returncode, len(calls.read_text().split()) if calls.exists() else 0


def test_nothing_changed_builds_nothing(project: Path) -> None:
    assert builds(project) == (0, 1)
    assert builds(project) == (0, 1)


def test_a_build_that_failed_is_tried_again(project: Path) -> None:
    assert builds(project) == (0, 1)
    time.sleep(TICK)
    (project / "book/page.md").write_text("false")
    assert builds(project) == (2, 2)
    assert builds(project) == (2, 3)
    (project / "book/page.md").write_text("true")
    assert builds(project) == (0, 4)
    assert builds(project) == (0, 4)


@pytest.mark.parametrize(
    "change",
    [
        lambda project: (project / "book/page.md").write_text("prose"),
        lambda project: (project / "code/topic/part.py").write_text("x = 1"),
        lambda project: (project / "benchmarks/results/cpu/numbers.json").touch(),
        lambda project: (project / "_toc.yml").touch(),
        lambda project: (project / "book/old.md").unlink(),
        lambda project: (project / "code/topic/new.py").touch(),
        lambda project: shutil.rmtree(project / "_build"),
        lambda project: shutil.rmtree(project / "_build/html"),
        lambda project: (
            project / ".venv/lib/python3.11/site-packages/torch-3.dist-info"
        ).mkdir(),
        lambda project: (project / ".venv/.installed").touch(),
        lambda project: (project / "node_modules/.installed").touch(),
    ],
)
def test_what_a_build_depends_on(project: Path, change) -> None:
    assert builds(project) == (0, 1)
    time.sleep(TICK)
    change(project)
    assert builds(project) == (0, 2)


def test_what_it_does_not_depend_on(project: Path) -> None:
    assert builds(project) == (0, 1)
    (project / "README.md").write_text("news")
    (project / "code/topic/__pycache__").mkdir()
    os.utime(project / "code/topic", (0, 0))  # once per folder, it does build
    (project / "code/topic/__pycache__/part.pyc").touch()
    assert builds(project) == (0, 1)
