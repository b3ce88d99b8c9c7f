"""Arguments as callers give them: what each check lets through, and what it makes of it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from mllm_plugin import InvalidInputError, InvalidTypeError
from mllm_plugin.memory import checks
from mllm_plugin.memory.checks import Scope
from mllm_plugin.store.times import ALWAYS, SUPERSEDED


@pytest.mark.parametrize(
    ("check", "given", "error"),
    [
        (lambda v: checks.positive("k", v), 0, InvalidInputError),
        (lambda v: checks.positive("k", v), True, InvalidTypeError),
        (lambda v: checks.positive("k", v), 1.0, InvalidTypeError),
        (lambda v: checks.seconds("wait", v), -1, InvalidInputError),
        (lambda v: checks.seconds("wait", v), float("nan"), InvalidInputError),
        (lambda v: checks.seconds("wait", v), "1", InvalidTypeError),
        (checks.label_of, "\ud800", InvalidInputError),
        (checks.mask_of, "expired", InvalidInputError),
        (checks.labels_of, "one", InvalidTypeError),
        (checks.labels_of, [1], InvalidTypeError),
        (checks.ids_of, b"a", InvalidTypeError),
        (checks.ids_of, ["a", 1], InvalidTypeError),
        (checks.id_of, 1, InvalidTypeError),
        (checks.version_of, -1, InvalidInputError),
        (lambda v: checks.mode_of(v, False), "fast", InvalidInputError),
        (lambda v: checks.mode_of(v, True), "beam", InvalidInputError),
        (lambda v: checks.mode_of(v, False, through_masks=True), "beam", InvalidInputError),
        (lambda v: checks.listing_of(None, v), 1, InvalidTypeError),
        (lambda v: checks.listing_of(None, None, v), "size", InvalidInputError),
        (checks.path_of, 3, InvalidTypeError),
        (checks.path_of, "a\0b", InvalidInputError),
    ],
)
def test_what_is_none_is_refused(check, given, error):
    with pytest.raises(error):
        check(given)


def test_what_is_fine_comes_out_in_one_form():
    assert checks.ids_of("a") == checks.ids_of(("a",)) == ["a"]
    assert checks.ids_of(None) is None
    assert checks.labels_of({"a": 1}) == ("a",)
    assert checks.scope_of("a", 1, {"year": {"$gt": 3}}, ["x"]) == Scope(
        ("a",), True, {"year": {"$gt": 3}}, ("x",)
    )
    assert checks.which_of(None, None, "draft").label == "draft"
    assert checks.mode_of("auto", True) == "exact"
    assert checks.seconds("wait", 2) == 2.0
    assert checks.version_of(None) is None


def test_what_held_then_may_have_been_superseded_since():
    assert checks.when_of(None, None, ()) == ALWAYS
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=2)
    found = checks.when_of(moment, None, ["draft", "draft"])
    assert (found.as_of, found.include_masked) == (2_000_000, ("draft", SUPERSEDED))
