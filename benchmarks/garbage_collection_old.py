"""Record the facts of `garbage_collection.py` on CPythons before 3.11.

    python benchmarks/garbage_collection_old.py /path/to/python2.7 /path/to/python3.10

writes benchmarks/results/cpython_old/garbage_collection.json.
"""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "garbage_collection.py"
TARGET = ROOT / "benchmarks" / "results" / "cpython_old" / "garbage_collection.json"
VERSION = "import platform; print(platform.python_version())"


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    versions, data = {}, {}
    for python in sys.argv[1:]:
        full = output(python, "-c", VERSION).strip()
        minor = full.rpartition(".")[0]
        versions[minor] = full
        data[minor] = json.loads(output(python, str(SCRIPT)))
    stored = {
        "device": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "date": datetime.date.today().isoformat(),
        "command": "python benchmarks/garbage_collection_old.py PYTHON …",
        "data": data,
    }
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
