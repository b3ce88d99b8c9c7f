"""Fixtures of the tests of a memory's calls."""

from __future__ import annotations

from tests.helpers.clock_tools import *  # noqa: F403
