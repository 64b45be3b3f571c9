"""Lighthouse: at least 95 of 100 for accessibility, best practices and SEO.

Performance is told, not tested: its score is made of seconds, and those are of the
machine and of what else it does. Needs Chromium and Node.js.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
TOOL = ROOT / "node_modules" / "lighthouse" / "cli" / "index.js"
GOOD = 95
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-background-networking"


def heaviest() -> str:
    pages = (SITE / "book").glob("*.html")
    return f"book/{max(pages, key=lambda file: file.stat().st_size, default=SITE).name}"


def measure(chromium: str, address: str, report: Path) -> tuple[dict[str, int], float]:
    """The scores, and how fast Lighthouse finds this machine at the moment."""
    command = ["node", str(TOOL), address, "--quiet", "--preset=desktop"]
    command += ["--output=json", f"--output-path={report}", f"--chrome-flags={FLAGS}"]
    command += ["--max-wait-for-load=120000"]
    environment = {**os.environ, "CHROME_PATH": chromium}
    subprocess.run(command, env=environment, check=True, timeout=480)
    found = json.loads(report.read_text(encoding="utf-8"))
    scores = {
        name: round(100 * each["score"]) for name, each in found["categories"].items()
    }
    return scores, found["environment"]["benchmarkIndex"]


@pytest.mark.skipif(
    not TOOL.is_file(), reason="no Lighthouse: install Node.js 18 or later"
)
@pytest.mark.parametrize("name", ["book/index.html", "book/glossary.html", heaviest()])
def test_lighthouse(
    chromium: str, site_url: str, name: str, tmp_path: Path, told: list[str]
) -> None:
    report = tmp_path / "report.json"
    scores, speed = measure(chromium, site_url + name, report)
    told.append(f"Lighthouse, {name}: {scores} at a benchmark index of {speed:.0f}")
    del scores["performance"]
    assert min(scores.values()) >= GOOD, scores
