"""The console script `mllm`, outside of the package, to catch an interruption while that is loaded."""

from __future__ import annotations


def start() -> None:
    """Loads the command line and runs it."""
    try:
        from mllm_plugin.cli import main
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    main(prog_name="mllm")
