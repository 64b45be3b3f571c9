"""Modules whose constructor arguments are the entries of a `config.json`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self


class Configured:
    """A mixin: `from_config`, and `config` with the arguments of the constructor."""

    # Entries with one allowed value here; anything else would be another network.
    only: ClassVar[dict[str, Any]] = {}
    # Entries that say nothing about the network; None: all that are not arguments.
    ignored: ClassVar[Sequence[str] | None] = ()

    # What diffusers or transformers take for an entry that a file leaves out, where a
    # default here differs: ours are those of Stable Diffusion v1.
    left_out: ClassVar[dict[str, Any]] = {}

    config: dict[str, Any]

    def remember(self, arguments: Mapping[str, Any]) -> None:
        """Keep the constructor's arguments; call it with `locals()`."""
        known = self.argument_names()
        mine = {key: value for key, value in arguments.items() if key in known}
        self.config = getattr(self, "config", {}) | mine

    @classmethod
    def argument_names(cls) -> list[str]:
        """What the constructor takes, with what it hands on to its base classes."""
        names: dict[str, None] = {}
        for each in cls.__mro__:
            if "__init__" in vars(each):
                for name, parameter in inspect.signature(each).parameters.items():
                    if parameter.kind is parameter.KEYWORD_ONLY:
                        names[name] = None
        return list(names)

    @classmethod
    def from_published(cls, config: Mapping[str, Any]) -> Self:
        """As `from_config`, for a file that diffusers or transformers wrote."""
        return cls.from_config(cls.left_out | dict(config))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The module that a `config.json` describes, with new weights.

        Raises:
            ValueError: an entry is unknown, or asks for what is not here.
        """
        arguments = {}
        for key, value in config.items():
            if key in cls.argument_names():
                arguments[key] = value
            elif key in cls.only:
                if value != cls.only[key]:
                    raise ValueError(
                        f"{key}: got {value!r}; allowed here: {cls.only[key]!r}"
                    )
            elif key.startswith("_") or cls.ignored is None or key in cls.ignored:
                continue
            else:
                raise ValueError(f"{key}: no entry that {cls.__name__} knows")
        return cls(**arguments)
