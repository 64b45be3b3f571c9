"""Runs first in the child of `run_pdb`: marks the prompts of the debugger.

A prompt and a line of output that looks like one are the same characters. So the
debugger's own requests for input, and no others, carry marks around their prompt:
`cmd` asks for commands, `code` asks in pdb's `interact`.
"""

import cmd
import os
import sys

_BEFORE, _AFTER = os.environ.pop("UNDERHOOD_PROMPT_MARKS").split(",")
_input = input


def _marked_input(prompt=""):
    if "code" in sys.modules:
        sys.modules["code"].input = _marked_input
    return _input(_BEFORE + str(prompt) + _AFTER)


# A global of a module goes before the builtin of the same name.
cmd.input = _marked_input
