"""Generation: batches, streams, seeds, stop texts, threads."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
import torch
from pydantic import ValidationError

from mllm_plugin.llm.decoding import Decoding
from mllm_plugin.llm.generate import Generated, generate, stream
from tests.helpers.tiny_memory_llm import random_reader

LONG = Decoding(max_new_tokens=24)


@pytest.fixture
def prompts(layout):
    return [layout.build(f"Question {number}?", passages=["A passage."] * number) for number in range(4)]


def whole(items) -> tuple[list[str], Generated]:
    *pieces, last = items
    assert "".join(pieces) == last.text
    return pieces, last


def test_greedy_is_the_same_every_time_alone_or_in_a_batch(tiny, prompts):
    together = generate(tiny, prompts, decoding=LONG)
    assert together == generate(tiny, prompts, decoding=LONG)
    assert together == [generate(tiny, [one], decoding=LONG)[0] for one in prompts]


def test_greedy_equals_transformers_own(tiny, prompts):
    ids = torch.tensor([prompts[0].ids])
    with torch.inference_mode():
        expected = tiny.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
        )
    text = tiny.tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)
    assert generate(tiny, prompts[:1], decoding=LONG)[0].text == text.rstrip("\ufffd").strip()


def test_large_batches_are_cut(tiny, prompts, monkeypatch):
    expected = generate(tiny, prompts, decoding=LONG)
    monkeypatch.setattr("mllm_plugin.llm.generate._BATCH_TOKENS", 200)
    assert generate(tiny, prompts, decoding=LONG) == expected
    assert generate(tiny, [], decoding=LONG) == []


@pytest.mark.parametrize("decoding", [LONG, Decoding(temperature=1.0, seed=3, max_new_tokens=24)], ids=str)
def test_a_stream_is_the_text_in_pieces(tiny, prompts, decoding):
    for prompt in prompts:
        pieces, last = whole(stream(tiny, prompt, decoding=decoding))
        assert len(pieces) > 5
        assert last == generate(tiny, [prompt], decoding=decoding)[0]


def test_sampling_with_a_seed(tiny, prompts):
    def sampled(seed, top_p=1.0, rows=prompts):
        return generate(
            tiny, rows, decoding=Decoding(temperature=1.0, top_p=top_p, seed=seed, max_new_tokens=12)
        )

    assert sampled(1) == sampled(1)
    assert sampled(1)[2:3] == sampled(1, rows=prompts[2:3])
    assert sampled(1) != sampled(2)
    assert sampled(None) != sampled(None)
    assert sampled(1, top_p=1e-6) == generate(tiny, prompts, decoding=Decoding(max_new_tokens=12))


def test_torchs_own_generator_is_left_alone(tiny, prompts):
    state = torch.random.get_rng_state()
    generate(tiny, prompts, decoding=Decoding(temperature=1.0, seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_stop_texts(tiny, prompts):
    free = generate(tiny, prompts[:1], decoding=LONG)[0]
    assert (free.finish_reason, free.tokens) == ("length", 24)
    stop = free.text[6:9]
    pieces, cut = whole(stream(tiny, prompts[0], decoding=LONG.model_copy(update={"stop": ("none", stop)})))
    assert cut.text == free.text[: free.text.index(stop)].strip()
    assert (cut.finish_reason, cut.tokens < 24) == ("stop", True)
    assert not any(stop in "".join(pieces[:count]) for count in range(len(pieces)))


def test_rows_of_a_batch_end_by_themselves(tiny, prompts):
    free = generate(tiny, prompts, decoding=LONG)
    stop = (free[1].text[2:5],)
    together = generate(tiny, prompts, decoding=LONG.model_copy(update={"stop": stop}))
    assert together[1].finish_reason == "stop"
    assert together == [
        generate(tiny, [one], decoding=LONG.model_copy(update={"stop": stop}))[0] for one in prompts
    ]


def test_end_tokens_are_no_text(tiny, prompts, monkeypatch):
    monkeypatch.setattr(tiny.model.generation_config, "eos_token_id", list(range(258)))
    assert generate(tiny, prompts[:1], decoding=LONG) == [Generated("", 0, "stop")]
    assert list(stream(tiny, prompts[0], decoding=LONG)) == [Generated("", 0, "stop")]


def test_memory_changes_what_is_written(tiny, layout):
    short = Decoding(max_new_tokens=8)
    adapter, prompt = random_reader(tiny), layout.build("Who?", memory_tokens=2)
    vectors = [one.vectors for one in adapter.write(tiny, ["one two", "violins", "(*?!)"])]
    found = generate(tiny, [prompt] * 3, [(one, [1, 0]) for one in vectors], adapter=adapter, decoding=short)
    assert len({one.text for one in found}) == 3
    for one, expected in zip(vectors, found, strict=True):
        assert generate(tiny, [prompt], [(one, [1, 0])], adapter=adapter, decoding=short) == [expected]
        assert whole(stream(tiny, prompt, (one, [1, 0]), adapter=adapter, decoding=short))[1] == expected


def test_without_lora_the_model_is_untouched(tiny, prompts):
    before, adapter = generate(tiny, prompts, decoding=LONG), random_reader(tiny)
    assert generate(tiny, prompts, adapter=adapter, decoding=LONG) != before
    assert generate(tiny, prompts, adapter=adapter, lora=False, decoding=LONG) == before
    assert generate(tiny, prompts, decoding=LONG) == before


def test_threads_do_not_disturb_one_another(tiny, prompts):
    adapter = random_reader(tiny)
    short, sampling = Decoding(max_new_tokens=8), Decoding(temperature=1.0, seed=4, max_new_tokens=8)
    jobs = [
        lambda: generate(tiny, prompts[:2], adapter=adapter, decoding=short),
        lambda: generate(tiny, prompts[:2], decoding=short),
        lambda: generate(tiny, prompts[:2], decoding=sampling),
        lambda: [whole(stream(tiny, prompts[1], adapter=adapter, decoding=short))[1]],
    ]
    expected = [job() for job in jobs]
    found: dict[int, list] = {}
    threads = [
        threading.Thread(target=lambda place=place: found.update({place: jobs[place % len(jobs)]()}))
        for place in range(12)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert all(found[place] == expected[place % len(jobs)] for place in range(12))


def test_a_closed_stream_stops_the_model(tiny, prompts):
    pieces = stream(tiny, prompts[0], decoding=Decoding(max_new_tokens=240))
    next(pieces)
    pieces.close()
    assert tiny.lock.acquire(timeout=10)
    tiny.lock.release()
    started = time.perf_counter()
    generate(tiny, prompts[:1], decoding=Decoding(max_new_tokens=1))
    assert time.perf_counter() - started < 5


def test_an_error_of_the_model_reaches_the_reader(tiny, layout):
    prompt = layout.build("Who?", memory_tokens=2)
    with pytest.raises(ValueError, match="soft tokens"):
        list(stream(tiny, prompt))
    with pytest.raises(ValueError, match="soft tokens"):
        generate(tiny, [prompt])


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -1}, {"top_p": 0}, {"max_new_tokens": 0}, {"stop": ("",)}, {"seed": -1}, {"beams": 2}],
    ids=str,
)
def test_settings_are_checked(settings):
    with pytest.raises(ValidationError):
        Decoding(**settings)


ABANDON = """
import sys
from mllm_plugin.llm import PromptLayout, load_llm
from mllm_plugin.llm.decoding import Decoding
from mllm_plugin.llm.generate import stream
llm = load_llm(sys.argv[1], device="cpu")
pieces = stream(llm, PromptLayout(llm.tokenizer).build("Why?"), decoding=Decoding(max_new_tokens=900))
next(pieces)
"""


def test_a_process_may_end_in_the_middle_of_a_stream(tiny_folder):
    done = subprocess.run(
        [sys.executable, "-c", ABANDON, str(tiny_folder)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
