"""Dates as people write them, to be read as ISO 8601: a small translation task.

The rules are real ones. Dots put the day first, slashes the month (as in Germany and
in the USA); two-digit years 69 to 99 are 19xx and 00 to 68 are 20xx (POSIX `strptime`);
weekdays and ordinal endings say nothing.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

PAD, BEGIN, END = 0, 1, 2
CHARACTERS = " ,./-'0123456789abcdefghijklmnopqrstuvwxyz"
VOCABULARY_SIZE = 3 + len(CHARACTERS)
TARGET_LENGTH = 11  # YYYY-MM-DD and END

MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august"),
    *("september", "october", "november", "december"),
)
WEEKDAYS = (
    *("monday", "tuesday", "wednesday", "thursday", "friday"),
    *("saturday", "sunday"),
)

FIRST, LAST = datetime.date(1969, 1, 1), datetime.date(2068, 12, 31)
HELD_OUT_YEARS = (1973, 1988, 2007, 2031, 2064)


def _month(date: datetime.date) -> str:
    return MONTHS[date.month - 1]


def _ordinal(day: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{day}{'th' if day in (11, 12, 13) else endings.get(day % 10, 'th')}"


FORMS: dict[str, Callable[[datetime.date], str]] = {
    "long": lambda d: f"{d.day} {_month(d)} {d.year}",
    "american": lambda d: f"{_month(d)} {d.day}, {d.year}",
    "short": lambda d: f"{d.day} {_month(d)[:3]} {d.year}",
    "weekday": lambda d: f"{WEEKDAYS[d.weekday()]}, {d.day} {_month(d)} {d.year}",
    "ordinal": lambda d: f"the {_ordinal(d.day)} of {_month(d)} {d.year}",
    "dots": lambda d: f"{d.day}.{d.month}.{d.year}",
    "slashes": lambda d: f"{d.month}/{d.day}/{d.year}",
    "log": lambda d: f"{d.day:02d}-{_month(d)[:3]}-{d.year % 100:02d}",
    "apostrophe": lambda d: f"{_month(d)[:3]} {d.day} '{d.year % 100:02d}",
    "year first": lambda d: f"{d.year} {_month(d)} {d.day}",
}
SOURCE_LENGTH = 30  # longest: "wednesday, 30 september 1998", 28 characters


def held_out(date: datetime.date, form: str) -> str | None:
    """Why this example is kept from training, or None when it is not.

    "year": five whole years, in every form. "leap day": 29 February of the other
    years, in every form. "month and form": May as `ordinal` and October as `slashes`,
    each seen often, but never together. "date": one date in ten, in every form.
    """
    if date.year in HELD_OUT_YEARS:
        return "year"
    if (date.month, date.day) == (2, 29):
        return "leap day"
    if (date.month, form) in ((5, "ordinal"), (10, "slashes")):
        return "month and form"
    if date.toordinal() % 10 == 0:
        return "date"
    return None


def random_examples(
    rng: random.Random, count: int, kind: str | None = None
) -> list[tuple[str, str, str]]:
    """Draw examples that are held out for the reason `kind` (None: not held out).

    Returns:
        `count` triples: the date as written, ISO 8601, and the name of its form.
    """
    days = (LAST - FIRST).days
    found: list[tuple[str, str, str]] = []
    while len(found) < count:
        date = FIRST + datetime.timedelta(rng.randint(0, days))
        form = rng.choice(list(FORMS))
        if held_out(date, form) == kind:
            found.append((FORMS[form](date), date.isoformat(), form))
    return found


def encode(texts: Sequence[str], length: int | None = None) -> Tensor:
    """Characters to ids, END after each text, PAD after that: (len(texts), length)."""
    rows = []
    for text in texts:
        unknown = set(text) - set(CHARACTERS)
        if unknown:
            raise ValueError(
                f"texts: {text!r} has {sorted(unknown)}; not in CHARACTERS"
            )
        rows.append([3 + CHARACTERS.index(c) for c in text] + [END])
    longest = max(map(len, rows)) if length is None else length
    if any(len(row) > longest for row in rows):
        raise ValueError(f"length: got {longest}; some text needs more")
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def decode(ids: Tensor) -> list[str]:
    """The inverse of `encode`: each row up to its END."""
    texts = []
    for row in ids.tolist():
        kept = row[: row.index(END)] if END in row else row
        texts.append("".join(CHARACTERS[i - 3] if i >= 3 else "?" for i in kept))
    return texts
