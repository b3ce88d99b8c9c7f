"""Short texts are read on one thread, and many by several side by side."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from mllm_plugin.encoders.huggingface import HuggingFaceEncoder, _divided
from mllm_plugin.encoders.threads import MOST_PARTS, on_one_thread, side_by_side
from tests.helpers.tiny_encoder import write_tiny_encoder


@pytest.fixture
def folder(tmp_path):
    return write_tiny_encoder(tmp_path / "model")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_short_work_has_one_thread_and_the_caller_keeps_its_own(two_threads):
    assert on_one_thread(torch.get_num_threads) == 1
    assert torch.get_num_threads() == 2
    found = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [2]


def test_an_error_comes_through(two_threads):
    with pytest.raises(ZeroDivisionError):
        on_one_thread(lambda: 1 / 0)


def test_only_short_batches_are_readon_one_thread(folder, two_threads, monkeypatch):
    encoder, seen = HuggingFaceEncoder(folder, device="cpu"), []
    read = encoder._read
    monkeypatch.setattr(
        encoder, "_read", lambda *given, **how: seen.append(torch.get_num_threads()) or read(*given, **how)
    )
    encoder._weights = 10**8
    short = encoder.encode_queries(["a tide"])
    assert seen == [1]
    long = encoder.encode_queries(["a tide", "a tide of many words which are read together"])
    assert seen == [1, 2]
    assert np.allclose(short[0], long[0], atol=1e-5)


def test_many_callers_at_once(folder, two_threads):
    encoder, found = HuggingFaceEncoder(folder, device="cpu"), {}
    expected = encoder.encode_query_windows(["the tide is high"])[1][0]

    def ask(place):
        found[place] = encoder.encode_query_windows(["the tide is high"])[1][0]

    callers = [threading.Thread(target=ask, args=(place,)) for place in range(12)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    assert len(found) == 12
    assert all(np.array_equal(one, expected) for one in found.values())
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_threads_of_its_own(tmp_path):
    code = (
        "import os, warnings, torch; from mllm_plugin.encoders.threads import on_one_thread;"
        "warnings.simplefilter('ignore'); torch.set_num_threads(2); on_one_thread(int); child = os.fork();"
        "os._exit(on_one_thread(torch.get_num_threads) + 41) if not child else None;"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == "42\n"


# -- side by side


MANY = [f"{'the tide is high ' * (1 + place % 7)}{place}" for place in range(40)]


def test_a_long_pass_is_divided_among_the_threads(folder, two_threads, monkeypatch):
    encoder, seen = HuggingFaceEncoder(folder, device="cpu"), []
    read = encoder._read

    def noted(batch, **how):
        seen.append((torch.get_num_threads(), threading.get_ident(), tuple(batch["input_ids"].shape)))
        return read(batch, **how)

    monkeypatch.setattr(encoder, "_read", noted)
    torch.set_num_threads(1)
    pooled, windows = encoder.encode_documents(MANY)
    torch.set_num_threads(2)
    assert len(seen) == 1
    encoder._weights = 10**9
    again, windows_again = encoder.encode_documents(MANY)
    _, *parts = seen
    assert [threads for threads, *_ in parts] == [1, 1]
    assert threading.get_ident() not in {thread for _, thread, _ in parts}
    assert sorted(shape[0] for *_, shape in parts) == [20, 20]
    assert min(shape[1] for *_, shape in parts) < max(shape[1] for *_, shape in parts)  # less is padded
    assert np.allclose(pooled, again, atol=1e-5)
    assert all(np.allclose(*pair, atol=1e-5) for pair in zip(windows, windows_again, strict=True))


def test_parts_are_as_wide_as_they_need():
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0]])
    parts = _divided({"input_ids": mask, "attention_mask": mask}, 3)
    assert [tuple(part["input_ids"].shape) for part in parts] == [(1, 3), (1, 2), (1, 1)]
    assert [len(part["input_ids"]) for part in _divided({"input_ids": mask, "attention_mask": mask}, 2)] == [
        1,
        2,
    ]


def test_results_come_in_order_and_errors_come_through(two_threads):
    assert side_by_side(lambda part: part * part, [3, 1, 2]) == [9, 1, 4]
    assert side_by_side(str, []) == []
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda part: 1 / part, [1, 0])


def test_more_threads_than_parts_are_shared_out():
    before = torch.get_num_threads()
    torch.set_num_threads(2 * MOST_PARTS)
    try:
        assert side_by_side(lambda _: torch.get_num_threads(), range(MOST_PARTS)) == [2] * MOST_PARTS
        assert torch.get_num_threads() == 2 * MOST_PARTS
    finally:
        torch.set_num_threads(before)
