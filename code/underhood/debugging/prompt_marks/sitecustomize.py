"""Runs first in the child of `run_pdb`: marks the prompts of the debugger.

A prompt and a line of output that looks like one are the same characters. So the
debugger's own requests for input, and no others, carry marks around their prompt:
`cmd` asks for commands, `code` in pdb's `interact`, `pdb` before it quits (3.14).
"""

import builtins
import cmd
import os
import sys

_marks = os.environ.pop("UNDERHOOD_PROMPT_MARKS", "")
_input = input


def _marked_input(prompt: object = "") -> str:
    before, after = _marks.split(",")
    for asking in {"code", "pdb"} & sys.modules.keys():
        vars(sys.modules[asking])["input"] = _marked_input
    return _input(f"{before}{prompt}{after}")


def _talks_to_us(self: cmd.Cmd) -> bool:
    return self.stdin is sys.stdin and self.stdout is sys.stdout


if _marks:
    # A global of a module goes before the builtin of the same name.
    vars(cmd)["input"] = _marked_input
    # The debugger inside the debugger (`debug`) asks with `input` too.
    asks = property(_talks_to_us, lambda self, value: None)
    type.__setattr__(cmd.Cmd, "use_rawinput", asks)
    if sys.orig_argv[1:4] == ["-m", "pdb", "-p"]:
        # Attached to another process, pdb asks by itself and debugs nothing here.
        builtins.input = _marked_input
