"""Standard output for a protocol alone."""

from __future__ import annotations

import os
import sys


def standard_output_alone() -> int:
    """A descriptor of standard output for its caller alone; what else prints goes to stderr from now on."""
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return own
