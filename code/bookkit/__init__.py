"""What makes the site a regression test.

Pages import `claim`, `glue`, `recorded`, `show` and `table` from here. The Sphinx
extension (`bookkit.extension`) is loaded by `_config.yml` and imported by no page.
"""

from typing import Any

from bookkit.claims import ClaimFailed, Record, claim, glue, recorded
from bookkit.figures import show, table

__all__ = ["ClaimFailed", "Record", "claim", "glue", "recorded", "show", "table"]


def setup(app: Any) -> dict[str, Any]:
    """Let Sphinx load the package by its name."""
    from bookkit import extension

    return extension.setup(app)
