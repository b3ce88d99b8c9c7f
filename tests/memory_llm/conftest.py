"""Fixtures of these tests."""

from tests.helpers.llm_fixtures import *  # noqa: F403
