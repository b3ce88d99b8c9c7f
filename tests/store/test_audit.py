"""The audit log of an agent memory: what was done, without texts, and without what is erased."""

from __future__ import annotations

from mllm_plugin.store.audit import FILE_NAME, Audit

ANN = ("user:ann",)


def test_the_log_tells_what_was_done_and_forgets_erased_ids(tmp_path):
    log = Audit(tmp_path, True)
    log.note("remember", ANN, ["a", "b"])
    log.note("recall", ("user:bob",), ["c"])
    log.note_count("expire", ANN, 4)
    assert [(one.action, one.ids, one.count) for one in log.entries(ANN, 9)] == [
        ("expire", (), 4),
        ("remember", ("a", "b"), 2),
    ]
    assert log.erase(["a"]) == ""
    assert log.entries(ANN, 9)[-1].ids == ("b",)
    assert log.entries(ANN, 9)[-1].count == 2
    log.close()
    assert b"remember" in (tmp_path / FILE_NAME).read_bytes()


def test_a_log_that_is_off_writes_nothing(tmp_path):
    log = Audit(tmp_path, False)
    log.note("remember", ANN, ["a"])
    assert log.entries((), 9) == []
    log.close()
    assert not (tmp_path / FILE_NAME).exists()
