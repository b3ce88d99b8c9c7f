"""The start of `mllm` and `python -m mllm_plugin`: an interruption while they load is no traceback.

Outside of the package, which is what takes long to load.
"""

from __future__ import annotations

import sys
from typing import Any


def start() -> None:
    """Loads the command line and runs it."""
    try:
        from mllm_plugin.cli import main
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    main(prog_name="mllm")


def _quietly(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # Python loads a package before it runs it
    sys.excepthook = _quietly
