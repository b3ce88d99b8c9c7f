"""Training of readers: the same model as transformers', texts, steps, and that it learns."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.llm import MemoryReader, ReaderConfig, load_llm, lora
from mllm_plugin.text.chunking import Span
from mllm_plugin.training.reader.evaluate import Held
from mllm_plugin.training.reader.loop import one_step, optimizer_of
from mllm_plugin.training.reader.models import ModelStack, stack_of
from mllm_plugin.training.reader.modules import Reader
from mllm_plugin.training.reader.prompts import Prompts, prompt_parts
from mllm_plugin.training.reader.rows import Sizes
from mllm_plugin.training.reader.stack import Changes, LlamaStack
from mllm_plugin.training.reader.steps import TensorStep, assemble, compact
from mllm_plugin.training.reader.tasks import Sampler
from mllm_plugin.training.reader.texts import HELD_OUT, LONGEST, Asked, ReaderTexts, prepare
from tests.helpers.tiny import write_tiny

SIZES = Sizes(chunks=8, short=14, long=6, short_tokens=256, long_tokens=640, predicted=1600)
WORDS = ["harbour", "lantern", "meadow", "copper", "orchard", "violin", "granite", "pepper"]


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return load_llm(write_tiny(tmp_path_factory.mktemp("tiny"), hidden=32), device="cpu")


def sentences(number: int) -> str:
    word = WORDS[number % len(WORDS)]
    return f"In {1900 + number} the old {word} was sold to Peter Holm for {number} crowns. It is blue."


@pytest.fixture(scope="module")
def texts(llm) -> ReaderTexts:
    documents = [(f"d{n}", sentences(n)) for n in range(40)]
    asked = [Asked(f"Price of {n}?", (f"{n} crowns",), f"d{n}") for n in range(40)]
    return prepare([(documents[:32], asked)], llm.tokenizer, held_out=(documents[32:], asked))


@pytest.fixture(scope="module")
def parts(llm) -> dict[str, list[int]]:
    return prompt_parts(llm.tokenizer)


@pytest.fixture
def stack(llm) -> LlamaStack:
    return LlamaStack(llm.model.state_dict(), llm.model.config.to_dict(), longest=1024)


@pytest.mark.parametrize(
    ("expected", "settings"),
    [
        (LlamaStack, {}),
        (LlamaStack, {"tie_word_embeddings": False}),
        (ModelStack, {"attention_bias": True}),
        (ModelStack, {"kind": "qwen2"}),
        (ModelStack, {"kind": "qwen3", "tie_word_embeddings": False}),
        (ModelStack, {"kind": "mistral"}),
        (ModelStack, {"kind": "gpt2"}),
    ],
    ids=str,
)
def test_the_stack_is_the_model(expected, settings, tmp_path):
    llm = load_llm(write_tiny(tmp_path, **settings), device="cpu")
    stack = stack_of(llm, longest=1024)
    assert isinstance(stack, expected)
    ids = torch.tensor([llm.tokenizer(sentences(3))["input_ids"]])
    embeds, seen = stack.embed(ids), torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)
    changes, decoder = Changes(stack, rank=2, scale=2.0), llm.model.get_decoder()
    with torch.no_grad():
        for outer in changes.outer.values():
            outer.copy_(torch.randn(outer.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
        plain = stack.normed(stack(embeds, stack.frozen()))
        assert torch.allclose(plain, decoder(ids).last_hidden_state, atol=1e-4)
        assert torch.allclose(stack.logits(plain), llm.model(ids).logits, atol=1e-4)
        changed, both_ways = (stack.normed(stack(embeds, changes.added(stack), one)) for one in (None, seen))
        with lora.in_place(llm.model, lora.added(llm.model, changes.tensors(stack), changes.scale)):
            assert torch.allclose(changed, decoder(ids).last_hidden_state, atol=1e-4)
            free = decoder(inputs_embeds=embeds, attention_mask=torch.zeros(seen.shape)).last_hidden_state
            assert torch.allclose(both_ways, free, atol=1e-4)
        assert not torch.allclose(changed, plain, atol=1e-2)
        assert not torch.allclose(changed[:, 0], both_ways[:, 0], atol=1e-2)
    again = Changes(stack, rank=2, scale=2.0)
    again.load(stack, changes.tensors(stack))
    assert all(torch.equal(*pair) for pair in zip(again.parameters(), changes.parameters(), strict=True))


def test_a_model_whose_output_is_something_else_is_refused(tmp_path, monkeypatch):
    llm = load_llm(write_tiny(tmp_path, kind="qwen2"), device="cpu")
    monkeypatch.setattr(
        llm.model, "get_output_embeddings", lambda: lambda states: states @ torch.ones(32, 258)
    )
    with pytest.raises(InvalidInputError, match="cannot be trained for"):
        stack_of(llm, longest=64)


def test_texts_have_blanks_that_say_what_stood_there(llm, texts, tmp_path):
    decode = llm.tokenizer.decode
    assert len(texts.blanks) > 60
    for row, (chunk, begin, start, end, finish, _) in enumerate(texts.blanks.tolist()):
        ids = texts.chunks[chunk]
        assert decode(ids[start:end]).strip() == decode(texts.fillings[row])
        assert 0 <= begin < start < end <= finish <= len(ids)
    assert set(texts.sources[texts.asked[texts.held_out]]) == {HELD_OUT}
    assert set(texts.sources[texts.asked[~texts.held_out]]) == {0}
    texts.save(tmp_path / "texts.npz")
    again = ReaderTexts.load(tmp_path / "texts.npz")
    assert np.array_equal(again.chunks.values, texts.chunks.values)
    assert np.array_equal(again.idf, texts.idf)


def test_a_step_asks_what_its_memory_holds(llm, texts, parts):
    sampler = Sampler(texts, Prompts.of(parts), SIZES)
    step, again = (sampler.step(np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(step.targets, again.targets)
    assert {"repeat", "fill", "answer"} <= set(step.kinds)
    held_out = {tuple(texts.chunks[n]) for n in np.flatnonzero(texts.sources == HELD_OUT)}
    drawn = {tuple(ids[live]) for ids, live in zip(step.ids, step.live, strict=True)}
    assert len(held_out) == 8
    assert not held_out & drawn
    most = SIZES.chunks * (LONGEST // 2) + SIZES.chunks + SIZES.groups
    for ids, places in step.rows:
        assert places.max() < most
        assert not ids[places >= 0].any()
    flat = np.concatenate([ids.ravel() for ids, _ in step.rows])
    inside = np.concatenate(list(step.kinds.values()))
    follows = step.rows_at[inside] + 1
    last = step.targets[inside] == llm.tokenizer.eos_token_id
    assert np.array_equal(flat[follows[~last]], step.targets[inside][~last])  # a row goes on with its target


def test_the_company_of_a_chunk_is_what_a_search_finds(llm, parts):
    told = [f"The {word} is very old indeed, they say here, and it is blue." for word in WORDS]
    told[0] += " It was sold by Peter Holm."
    asked = [Asked("Who sold the granite?", ("Peter Holm",), "d")]
    documents = [("d", "\n".join(told))]
    texts = prepare(
        [(documents, asked)],
        llm.tokenizer,
        cut=lambda text: [Span(*found.span()) for found in re.finditer(".+", text)],
    )
    sampler = Sampler(texts, Prompts.of(parts), SIZES, asked=1.0, alike=1.0)
    [chunk] = texts.asked.tolist()
    groups = np.reshape(sampler._draw(np.random.default_rng(0))[:8], (-1, 4))
    assert (groups[:, 0] == chunk).all()
    for _, first, *others in groups.tolist():
        assert "granite" in llm.tokenizer.decode(texts.chunks[first])
        assert len({chunk, first, *others}) == 4


def test_a_compact_step_is_the_same_step(stack, texts, parts):
    sizes = Sizes(chunks=8, short=20, long=12, short_tokens=256, long_tokens=640, predicted=2400)
    reader = Reader(stack, torch.from_numpy(texts.idf.astype(np.float32)), sizes, rank=2)
    for seed in range(4):
        step = Sampler(texts, Prompts.of(parts), sizes).step(np.random.default_rng(seed))
        small = compact(step)
        real = np.concatenate(list(step.kinds.values()))
        assert sum(ids.size for ids, _ in small.rows) < sum(ids.size for ids, _ in step.rows)
        with torch.no_grad():
            whole, part = (reader.loss(TensorStep.of(one, "cpu")) for one in (step, small))
        assert torch.allclose(whole[0], part[0], atol=1e-4)
        assert torch.allclose(whole[1][real], part[1][real], atol=1e-3)


def test_a_step_that_asks_nothing_changes_nothing(stack, texts):
    reader = Reader(stack, torch.from_numpy(texts.idf.astype(np.float32)), SIZES, rank=2)
    step = compact(assemble([texts.chunks[0]], np.array([4]), [], SIZES))
    total, _, _ = reader.loss(TensorStep.of(step, "cpu"))
    total.backward()
    assert float(total.detach()) == 0
    assert all(torch.isfinite(one.grad).all() for one in reader.writer.parameters())


def test_teachers_say_the_same_tokens(texts, parts):
    sampler = Sampler(texts, Prompts.of(parts), SIZES)
    steps = [sampler.step(np.random.default_rng(seed)) for seed in range(8)]
    assert sum(len(step.taught) for step in steps) > 0
    for step in steps:
        assert np.array_equal(step.targets[step.taught], step.targets[step.teacher])


def test_it_learns_and_what_it_learned_is_read_with_transformers(llm, stack, texts, parts):
    torch.manual_seed(0)
    reader = Reader(stack, torch.from_numpy(texts.idf.astype(np.float32)), SIZES, rank=4)
    sampler, optimizer = Sampler(texts, Prompts.of(parts), SIZES), optimizer_of(reader, 1e-2)
    filled = []
    for number in range(30):
        step = sampler.step(np.random.default_rng(number))
        _, tokens, _ = one_step(reader, optimizer, TensorStep.of(step, "cpu"), number / 30)
        if "fill" in step.kinds:
            filled.append(float(tokens[step.kinds["fill"]].mean()))
    assert np.mean(filled[-6:]) < np.mean(filled[:6]) - 0.3
    held = Held(reader, texts, Prompts.of(parts))
    numbers = held.questions()
    assert len(numbers) == 8
    assert held.losses(numbers, 4, "own").shape == (8,)
    assert len(held.answers(numbers, 4, "own", most=3)) == 8
    tensors = {f"writer.{name}": value for name, value in reader.writer.tensors(reader.stack).items()}
    tensors |= {f"reader.{name}": value for name, value in reader.reader.tensors(reader.stack).items()}
    tensors |= {f"space.{name}": value for name, value in reader.reading.state_dict().items()}
    tensors["space.idf"] = torch.from_numpy(texts.idf.astype(np.float32))
    made = MemoryReader(ReaderConfig(llm=llm.fingerprint, llm_name="tiny", hidden=llm.hidden), tensors)
    step = TensorStep.of(sampler.step(np.random.default_rng(0)), "cpu")
    chunk = int(step.live[0].sum())
    with torch.no_grad():
        size = torch.full_like(step.size, 4)
        memory = reader.memory(step.ids, step.live, size, reader.writer.added(stack))
    [written] = made.write(llm, [llm.tokenizer.decode(step.ids[0][:chunk])])
    tokens = made.soft_tokens(written.vectors, np.zeros(len(written.vectors), np.int64))
    assert torch.allclose(tokens, memory[: len(tokens)], atol=0.02)


def test_the_device_script_runs_on_a_cpu(llm, texts, parts, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks" / "gpu"))
    import train_reader

    texts.save(tmp_path / "texts.npz")
    (tmp_path / "texts.json").write_text(json.dumps(parts))
    sizes = {name: getattr(SIZES, name) for name in SIZES.__dataclass_fields__}
    given = [
        "--model",
        llm.folder,
        "--texts",
        tmp_path / "texts.npz",
        "--out",
        tmp_path / "out",
        "--steps",
        2,
    ]
    given += ["--report", 1, "--look", 0, "--answers", 4, "--workers", 0, "--sizes", json.dumps(sizes)]
    given += ["--longest", 1024, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["train_reader.py", *map(str, given)])
    train_reader.main()
    names = set(load_file(tmp_path / "out" / "reader-0.safetensors"))
    assert {"reading.map.weight", "writer.model.layers.1.mlp.up_proj.lora_B.weight"} <= names
    curve = json.loads((tmp_path / "out" / "curve.json").read_text())["curve"]
    assert [row["step"] for row in curve] == [1, 2]
    assert curve[-1]["held_out"]["own"] > 0
    said = json.loads((tmp_path / "out" / "answers.json").read_text())
    assert len(said["own 4"]) == len(said["questions"]) == 4


def test_the_device_script_for_chunks_side_by_side_runs_on_a_cpu(llm, texts, parts, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks" / "gpu"))
    import train_blocks

    texts.save(tmp_path / "texts.npz")
    (tmp_path / "texts.json").write_text(json.dumps(parts))
    given = ["--model", llm.folder, "--texts", tmp_path / "texts.npz", "--out", tmp_path / "out"]
    given += ["--steps", 12, "--rows", 6, "--report", 3, "--answers", 4, "--workers", 0, "--rank", 4]
    given += ["--rate", 3e-2, "--longest", 640, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["train_blocks.py", *map(str, given)])
    train_blocks.main()
    found = json.loads((tmp_path / "out" / "blocks.json").read_text())
    assert [row["step"] for row in found["curve"]] == [3, 6, 9, 12]
    assert found["curve"][-1]["loss"] < found["curve"][0]["loss"]
    assert found["held_out"]["side by side, tuned"] < found["held_out"]["side by side"]
    said = json.loads((tmp_path / "out" / "answers.json").read_text())
    assert {len(rows) for rows in said.values()} == {4}
    assert "model.layers.1.mlp.up_proj.lora_B.weight" in load_file(tmp_path / "out" / "blocks-0.safetensors")


def test_chunks_side_by_side_are_read_as_if_each_were_alone(stack, parts, monkeypatch):
    """What the model has of a chunk does not depend on its company; what follows sees all of them."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks" / "gpu"))
    from train_blocks import Batch, lay, states

    prompts, rng = Prompts.of(parts), np.random.default_rng(0)
    one, other = (rng.integers(5, 60, size) for size in (9, 14))
    question = rng.integers(5, 60, 4)
    both = Batch.of([lay(prompts, [one, other], question, question[:1])], 128)
    alone = Batch.of([lay(prompts, [other], question, question[:1])], 128)
    weights = stack.frozen()
    there, here = (states(stack, weights, batch, beside=True)[0] for batch in (both, alone))
    assert torch.allclose(there[both.blocks[0] == 2], here[alone.blocks[0] == 1], atol=1e-5)
    end = int(both.ends), int(alone.ends)
    assert not torch.allclose(there[end[0] - 1], here[end[1] - 1], atol=1e-3)
    head, widest = len(parts["head"]), len(other) + len(parts["gap"])
    places = both.places()[0]
    assert places[both.blocks[0] == 2].tolist() == list(range(head, head + widest))
    assert int(places[both.blocks[0] == -1][0]) == head + widest
    plain = states(stack, weights, alone, beside=False)[0]
    assert torch.allclose(plain[: end[1]], here[: end[1]], atol=1e-5)
