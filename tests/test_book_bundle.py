"""A listing with what it needs runs alone: invented packages, then the whole book."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from bookkit.bundle import CannotBundle, bundle
from bookkit.listing import NoSuchObject

ROOT = Path(__file__).parents[1]


def write(root: Path, **files: str) -> Path:
    package = root / "code" / "demo"
    package.mkdir(parents=True)
    for name, text in {"__init__": "", **files}.items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    return root / "code"


def run(script: str, ending: str) -> str:
    """What a fresh interpreter prints that knows nothing of ours."""
    answer = subprocess.run(
        [sys.executable, "-I", "-c", script + ending],
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout.strip()


def test_follows_names_into_other_modules_and_leaves_the_rest(tmp_path: Path) -> None:
    code = write(
        tmp_path,
        base="import math\n\nHALF = 0.5\n\ndef root(x):\n    return math.sqrt(x)\n\n"
        "def other():\n    return 1\n",
        top="from demo.base import HALF as PART, root\n\n# Why it is so.\n"
        "def scaled(x):\n    return PART * root(x)\n\ndef unused():\n    return 2\n",
    )
    script = bundle("demo.top.scaled", code)
    assert run(script.text, "\nprint(scaled(16.0))") == "2.0"
    assert "other" not in script.text and "unused" not in script.text
    assert "# Why it is so." in script.text
    assert {file.stem for file in script.files} == {"base", "top"}


def test_a_base_class_stands_before_its_heir_whatever_is_met_first(
    tmp_path: Path,
) -> None:
    code = write(
        tmp_path,
        roots="class Root:\n    def name(self):\n        return late()\n\n"
        "def late():\n    return 'root'\n",
        heirs="from demo.roots import Root, late\n\nclass Heir(Root):\n    pass\n\n"
        "def make():\n    return late() + Heir().name()\n",
    )
    assert run(bundle("demo.heirs.make", code).text, "\nprint(make())") == "rootroot"


def test_takes_along_what_is_registered_with_an_object(tmp_path: Path) -> None:
    code = write(
        tmp_path,
        table="class Table(dict):\n    def add(self, f):\n"
        "        self[f.__name__] = f\n\n\n"
        "TABLE = Table()\n\n\n@TABLE.add\ndef first():\n    return 1\n",
    )
    assert run(bundle("demo.table.TABLE", code).text, "\nprint(*TABLE)") == "first"


def test_refuses_a_name_of_two_meanings_and_a_file_beside_the_code(
    tmp_path: Path,
) -> None:
    code = write(
        tmp_path,
        a="def _check():\n    return 1\n\ndef one():\n    return _check()\n",
        b="from demo.a import one\n\ndef _check():\n    return 2\n\n"
        "def two():\n    return one() + _check()\n",
        c="from pathlib import Path\n\ndef here():\n    return Path(__file__)\n",
    )
    with pytest.raises(CannotBundle, match="`_check` is defined in demo"):
        bundle("demo.b.two", code)
    with pytest.raises(CannotBundle, match="reads files beside it"):
        bundle("demo.c.here", code)
    with pytest.raises(NoSuchObject, match="nothing"):
        bundle("demo.a.nothing", code)


def listings() -> list[str]:
    pattern = re.compile(r"^[:~`]{3,}\{listing\} (\S+)", re.MULTILINE)
    pages = sorted((ROOT / "book").glob("*.md"))
    return [name for page in pages for name in pattern.findall(page.read_text("utf-8"))]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_every_listing_of_the_book_runs_alone(tmp_path: Path) -> None:
    import matplotlib.pyplot  # noqa: F401  (once here, not in every process)
    import torch  # noqa: F401

    ran, failed, refused = 0, [], []
    for number, name in enumerate(listings()):
        try:
            script = bundle(name, ROOT / "code")
        except CannotBundle as error:
            refused.append(f"{error}")
            continue
        file = tmp_path / f"pasted_{number}.py"
        file.write_text(script.text, encoding="utf-8")
        ran += 1
        child = os.fork()
        if child == 0:
            os._exit(_run_without_ours(file))
        if os.waitpid(child, 0)[1]:
            failed.append(name)
    print(f"{ran - len(failed)} of {ran} listings run alone")
    assert ran > 50
    assert all("a whole module" in reason for reason in refused), refused
    assert failed == []


def _run_without_ours(file: Path) -> int:
    sys.path[:] = [path for path in sys.path if not path.endswith("/code")]
    sys.meta_path[:] = [one for one in sys.meta_path if "editable" not in repr(one)]
    for name in [n for n in sys.modules if n.split(".")[0] in ("underhood", "bookkit")]:
        del sys.modules[name]
    os.chdir(file.parent)
    try:
        runpy.run_path(str(file), run_name=file.stem)
    except BaseException as error:
        print(f"{file.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 1 if {"underhood", "bookkit"} & set(sys.modules) else 0
