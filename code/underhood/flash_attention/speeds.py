"""Read a recording of `benchmarks/flash_attention.py`."""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]


def speeds(rows: Rows, **which: Any) -> dict[str, dict[int, float]]:
    """TFLOP/s by method and length, of the rows that agree with `which`.

    Args:
        rows: `data["rows"]` of the recording.
        which: values of "pass" (as `what`), "head_dim", "causal", "dtype".

    Raises:
        ValueError: no row agrees.
    """
    wanted = {"pass" if key == "what" else key: value for key, value in which.items()}
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if all(row[key] == value for key, value in wanted.items()):
            found.setdefault(row["method"], {})[row["length"]] = row["tflops"]
    if not found:
        raise ValueError(f"which: got {which}; the recording has no such row")
    return {name: dict(sorted(line.items())) for name, line in found.items()}


def ratio(rows: Rows, method: str, other: str, **which: Any) -> dict[int, float]:
    """How many times as fast `method` was as `other`, by length."""
    lines = speeds(rows, **which)
    return {
        length: lines[method][length] / lines[other][length]
        for length in lines[method]
        if length in lines.get(other, {})
    }


def peak_mebibytes(rows: Rows, method: str) -> dict[int, float]:
    """The most memory that forward + backward held beside its inputs, by length."""
    found: dict[int, float] = {}
    for row in rows:
        if row["method"] == method:
            mebibytes = row["peak_bytes"] / 2**20
            found[row["length"]] = max(found.get(row["length"], 0.0), mebibytes)
    return found
