"""Tests, in folders that mirror the package."""

from tests.helpers.shape_tools import arrays_only

__all__ = ["arrays_only"]  # where the option --jaxtyping-packages looks for it
