"""What was said in a session: prompts, commands, and what came back."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import NamedTuple

STOP = re.compile(
    r"^(?:--(?P<event>Call|Return)--\n)?"
    r"> (?P<file>.+?)\((?P<line>\d+)\)(?P<function>[\w<>]+)\(\)",
    re.MULTILINE,
)

FRAME = re.compile(
    r"^(?P<mark>[> ]) (?P<place>\S.*\(\d+\)[\w<>]+\(\)).*\n-> (?P<code>.*)$",
    re.MULTILINE,
)

LOOKS = {"u", "up", "d", "down", "w", "where", "bt", "exceptions"}


class Stop(NamedTuple):
    """Where a debugger stops: before a line, after a call, before a return."""

    event: str  # "line", "call", "return"; from our debuggers also "exception"
    file: str
    line: int
    function: str


class Frame(NamedTuple):
    """One entry of the stack that `w` lists."""

    place: str
    code: str
    selected: bool


@dataclass(frozen=True)
class Exchange:
    """One command and what the debugger and the program answered."""

    prompt: str
    command: str
    output: str


@dataclass(frozen=True, repr=False)
class Transcript:
    """A session from its start to its end. Its text is what a terminal shows."""

    opening: str  # what came before the first prompt
    exchanges: tuple[Exchange, ...]
    prompt: str  # the last prompt, which no command answered; "" if there is none
    ending: str  # "prompt": no command was left; "exit": it ended; "timeout"
    returncode: int | None  # of a process that ended by itself

    def __getitem__(self, index: int) -> Exchange:
        return self.exchanges[index]

    def __len__(self) -> int:
        return len(self.exchanges)

    def output(self, command: str) -> str:
        """What the first such command gave, without the last line break.

        Raises:
            KeyError: the command is not in the session.
        """
        for exchange in self.exchanges:
            if exchange.command == command:
                return exchange.output.rstrip("\n")
        raise KeyError(f"command: {command!r} is not in this session")

    @property
    def stops(self) -> list[Stop]:
        """Each place at which the debugger stopped and said so, in order.

        What `u`, `d`, `w` and `exceptions` show is where one looks: no stop.
        """
        moves = [e for e in self.exchanges if e.command.split(" ")[0] not in LOOKS]
        outputs = [self.opening, *(each.output for each in moves)]
        return [stop for output in outputs for stop in stops_in(output)]

    def __str__(self) -> str:
        lines = [f"{e.prompt}{e.command}\n{e.output}" for e in self.exchanges]
        end = "[no answer: timeout]\n" if self.ending == "timeout" else ""
        return (self.opening + "".join(lines) + self.prompt + end).rstrip()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """The same text for a page; commands bold, prompts faint."""
        parts = [html.escape(self.opening)]
        for each in self.exchanges:
            parts.append(
                f'<span class="pdb-prompt" style="opacity:.65">'
                f"{html.escape(each.prompt)}</span>"
                f'<b class="pdb-command">{html.escape(each.command)}</b>\n'
                f"{html.escape(each.output)}"
            )
        if self.ending == "timeout":
            parts.append("<i>[no answer: timeout]</i>")
        text = "".join(parts).rstrip()
        return f'<div class="highlight"><pre class="transcript">{text}</pre></div>'


def stops_in(output: str) -> list[Stop]:
    """The stops that a piece of pdb's output reports."""
    return [
        Stop(
            event=(found["event"] or "line").lower(),
            file=found["file"],
            line=int(found["line"]),
            function=found["function"],
        )
        for found in STOP.finditer(output)
    ]


def frames_in(output: str) -> list[Frame]:
    """The frames that `w` lists, the oldest first, without those of the library."""
    return [
        Frame(found["place"], found["code"], found["mark"] == ">")
        for found in FRAME.finditer(output)
        if not found["place"].startswith("<stdlib>")
    ]
