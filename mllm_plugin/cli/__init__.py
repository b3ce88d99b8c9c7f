"""The command line `mllm`."""

from mllm_plugin.cli.app import main

__all__ = ["main"]
