"""What makes the site a regression test.

Pages import `claim`, `glue`, `recorded`, `show` and `table` from here. The Sphinx
extension (`bookkit.extension`) is loaded by `_config.yml` and imported by no page.
"""

from bookkit.claims import ClaimFailed, Record, claim, glue, recorded
from bookkit.figures import show, table

__all__ = ["ClaimFailed", "Record", "claim", "glue", "recorded", "show", "table"]
