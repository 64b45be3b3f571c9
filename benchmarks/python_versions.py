"""Record what the four Python chapters say of every CPython: one file a chapter.

    python benchmarks/python_versions.py [objects …]

Runs `benchmarks/<topic>.py`, which prints one JSON object of facts, under each
CPython 3.11+ of this machine and under CPython in WebAssembly where it is there, and
writes `benchmarks/results/cpython/<topic>.json` with its provenance. A fact that a
version cannot give is null, beside its reason in `<fact>_reason`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "code"))

from bookkit.interpreters import (  # noqa: E402
    Interpreter,
    NoWebAssembly,
    find_cpythons,
    find_webassembly,
)

TOPICS = ("garbage_collection", "objects", "inheritance", "debugging")
LIMIT = 300.0  # seconds for one script under one interpreter


class MeasurementFailed(RuntimeError):
    """A script gave no facts; the message names the interpreter and the topic."""


def measure(topic: str, interpreter: Interpreter, root: Path) -> dict[str, Any]:
    """The facts that `benchmarks/<topic>.py` prints under one interpreter.

    Raises:
        MeasurementFailed: it failed, took too long, or printed something else.
    """
    where = f"{topic} under CPython {interpreter.full_version}"
    try:
        done = interpreter.run([f"benchmarks/{topic}.py"], root=root, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise MeasurementFailed(f"{where}: no answer in {LIMIT:.0f} s") from None
    if done.returncode != 0:
        raise MeasurementFailed(f"{where}: status {done.returncode}\n{done.stderr}")
    try:
        facts = json.loads(done.stdout, parse_constant=_refuse)
    except ValueError as error:
        raise MeasurementFailed(f"{where}: not JSON: {error}") from None
    if not isinstance(facts, dict) or not facts:
        raise MeasurementFailed(f"{where}: not an object with facts")
    for name, value in facts.items():
        if value is None and not facts.get(f"{name}_reason"):
            raise MeasurementFailed(f"{where}: {name!r} is null without a reason")
    return facts


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def record(topic: str, interpreters: list[Interpreter], root: Path) -> Path:
    """Measure one topic under all interpreters; write its file only when all answer."""
    recording = {
        "device": f"{platform.system()} {platform.machine()}",
        "versions": {each.name: each.full_version for each in interpreters},
        "date": datetime.date.today().isoformat(),
        "command": "python benchmarks/python_versions.py",
        "data": {each.name: measure(topic, each, root) for each in interpreters},
    }
    file = root / "benchmarks" / "results" / "cpython" / f"{topic}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".json.new")
    text = json.dumps(recording, indent=1, ensure_ascii=False)
    unfinished.write_text(text + "\n", encoding="utf-8")
    os.replace(unfinished, file)
    return file


def main() -> int:
    """Record the topics given, or all; 1 if one of them could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("topic", nargs="*", choices=[*TOPICS, []])
    topics = parser.parse_args().topic or TOPICS
    interpreters = find_cpythons()
    try:
        interpreters.append(find_webassembly(ROOT))
    except NoWebAssembly as missing:
        print(f"not measured in WebAssembly: {missing}", file=sys.stderr)
    status = 0
    for topic in topics:
        try:
            file = record(topic, interpreters, ROOT)
        except MeasurementFailed as error:
            print(f"not recorded: {error}", file=sys.stderr)
            status = 1
        else:
            versions = ", ".join(each.full_version for each in interpreters)
            print(f"{file.relative_to(ROOT).as_posix()}: {versions}")
    return status


if __name__ == "__main__":
    sys.exit(main())
