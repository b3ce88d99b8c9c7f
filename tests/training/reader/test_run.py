"""`train_reader` and `mllm train-llm`: from a memory to a folder that a language model can use."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from mllm_plugin import AdapterMismatchError, Document, InvalidInputError, MemoryIndex
from mllm_plugin.cli import main
from mllm_plugin.cli.settings import Settings
from mllm_plugin.hierarchy import document_mark
from mllm_plugin.llm import MemoryReader, load_llm
from mllm_plugin.memory_llm import MemoryLLM
from mllm_plugin.training.reader import loop
from mllm_plugin.training.reader.config import ReaderTrainingConfig
from mllm_plugin.training.reader.prompts import Prompts, prompt_parts
from mllm_plugin.training.reader.run import train_reader
from mllm_plugin.training.reader.samples import collect
from mllm_plugin.training.reader.texts import HELD_OUT, Ragged
from tests.helpers.reader_facts import NAMES, TOWNS
from tests.helpers.tiny import write_tiny
from tests.helpers.toy import ToyEncoder

QUICK = ReaderTrainingConfig(
    steps=2, rank=2, rate=1e-2, evaluate_every=1, evaluate_questions=4, answer_tokens=4, patience=9
)


def material(memory, llm, **options):
    return collect(memory, llm.tokenizer, Prompts.of(prompt_parts(llm.tokenizer)), **options)


def test_any_causal_model_trains_its_reader_and_reads_with_it(memory, llm_folder, asked, tmp_path) -> None:
    queries, qrels = asked
    folder = tmp_path / "reader"
    report = train_reader(
        memory,
        folder,
        llm=llm_folder,
        queries=queries,
        qrels=qrels,
        config=QUICK.model_copy(update={"seed": 2}),
        progress=False,
    )
    assert (report.chunks, report.questions, report.held_out, report.measured) == (11, 9, 2, "questions")
    assert set(report.losses) == {"own", "foreign", "none", "text"}
    assert set(report.scores) == {"memory", "text", "none"}
    assert report.losses["own"][1] < report.losses["own"][0]
    assert report.best_step > 0
    reader = MemoryReader.load(folder)
    assert reader.config.about["losses"]["own"] == list(report.losses["own"])
    assert reader.config.documents == tuple(sorted(document_mark((), name.lower()) for name in NAMES))
    history = json.loads((folder / "curves.json").read_text())["history"]
    assert [row["step"] for row in history] == [0, 1, 2]
    assert history[0]["loss"] is None
    answer = MemoryLLM.open(memory, model=llm_folder, adapter=folder, device="cpu").answer(
        "Where was Anna born?", mode="memory", max_new_tokens=2
    )
    assert answer.mode == "memory"
    assert answer.usage.memory_tokens > 0
    assert answer.unknown is not None


def test_removals_name_the_readers_that_saw_a_document(memory, llm_folder, tmp_path) -> None:
    train_reader(memory, tmp_path / "reader", llm=llm_folder, config=QUICK, progress=False)
    memory.add([Document("never trained on", id="new")])
    memory.install("identity")  # replaces the memory's own weights and forgets no reader
    assert memory.remove(["new"]).weights == ()
    assert memory.remove(["anna"]).weights == (f"adapter:{(tmp_path / 'reader').resolve()}",)
    assert memory.verify().problems == ()


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return load_llm(write_tiny(tmp_path_factory.mktemp("tiny")), device="cpu")


def test_an_interrupted_run_goes_on_exactly(memory, llm, tmp_path, monkeypatch) -> None:
    config = QUICK.model_copy(update={"steps": 3})
    options = {"llm": llm, "config": config, "progress": False}
    whole = train_reader(memory, tmp_path / "whole", **options)
    step = loop.Loop.step

    def interrupted(self, number):
        if number == 2:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(loop.Loop, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_reader(memory, tmp_path / "parts", **options)
    taken = []
    monkeypatch.setattr(loop.Loop, "step", lambda self, number: taken.append(number) or step(self, number))
    parts = train_reader(memory, tmp_path / "parts", resume=True, **options)
    assert taken == [2]
    assert (parts.losses, parts.scores, parts.best_step) == (whole.losses, whole.scores, whole.best_step)
    one, other = (load_file(tmp_path / name / "reader.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    train_reader(memory, tmp_path / "parts", **options)  # without `resume` it begins anew
    assert taken == [2, 0, 1, 2]


def test_training_goes_on_from_a_reader(memory, llm, tmp_path) -> None:
    options = {"llm": llm, "config": QUICK, "progress": False}
    one = train_reader(memory, tmp_path / "one", **options)
    again = train_reader(memory, tmp_path / "again", start=tmp_path / "one", **options)
    assert again.losses["own"][0] == pytest.approx(one.losses["own"][1], abs=0.02)
    assert abs(one.losses["own"][0] - one.losses["own"][1]) > 0.1
    with MemoryIndex.open(tmp_path / "other", encoder=ToyEncoder()) as other:
        other.add(
            Document(id=f"o{n}", text=f"The painter {name} left in {n}.") for n, name in enumerate(NAMES)
        )
        train_reader(other, tmp_path / "two", start=tmp_path / "one", **options)
    first, second = (MemoryReader.load(tmp_path / name) for name in ("one", "two"))
    assert second.has_seen("anna")
    assert second.has_seen("o1")
    assert torch.equal(first.tensors["space.idf"], second.tensors["space.idf"])
    stranger = load_llm(write_tiny(tmp_path / "stranger", seed=3), device="cpu")
    with pytest.raises(AdapterMismatchError, match="to start with was made for"):
        train_reader(memory, tmp_path / "three", start=first, **{**options, "llm": stranger})


# -- what there is to train on


def test_held_out_text_is_never_trained_on(memory, llm, asked) -> None:
    queries, qrels = asked
    found = material(memory, llm, queries=queries, qrels=qrels)
    texts, decode = found.texts, llm.tokenizer.decode
    held = texts.sources[texts.asked] == HELD_OUT
    assert np.array_equal(held, texts.held_out)
    assert (found.questions, found.held_out) == (9, 2)
    for number, chunk in enumerate(texts.asked):
        question, answer = decode(texts.questions[number]), decode(texts.answers[number])
        assert answer in TOWNS
        assert answer in decode(texts.chunks[int(chunk)])
        assert question.split()[2] in decode(texts.chunks[int(chunk)])


def test_questions_without_grades_are_found_by_a_search(memory, llm, asked) -> None:
    found = material(memory, llm, queries=asked[0])
    assert (found.questions, found.held_out, found.measured) == (9, 2, "questions")
    with pytest.raises(InvalidInputError, match="none of the 1 questions has an answer that stands"):
        material(memory, llm, queries={"q": {"text": "Who?", "answers": ["nobody at all"]}})


def test_without_questions_blanks_of_held_out_text_are_measured(memory, llm) -> None:
    found = material(memory, llm)
    texts = found.texts
    assert (found.questions, found.measured) == (0, "blanks")
    assert set(texts.sources[texts.asked]) == {HELD_OUT}
    assert len(set(texts.asked.tolist())) == 2
    for number, chunk in enumerate(texts.asked):
        filling, question = (llm.tokenizer.decode(one[number]) for one in (texts.answers, texts.questions))
        assert filling in llm.tokenizer.decode(texts.chunks[int(chunk)])
        assert filling not in question


def test_masked_documents_are_left_out(memory, llm) -> None:
    memory.mask(["anna"])
    found = material(memory, llm)
    assert document_mark((), "anna") not in found.marks
    assert not any("Anna" in llm.tokenizer.decode(found.texts.chunks[n]) for n in range(10))


def test_one_long_document_is_held_out_in_part(llm, tmp_path) -> None:
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        facts = (f"In the year {1000 + n} the town had exactly {n} wells and no mayor." for n in range(400))
        memory.add([Document(id="chronicle", text=" ".join(facts))])
        found = material(memory, llm)
        chunks = memory.stats().chunks
    held = int((found.texts.sources == HELD_OUT).sum())
    assert len(found.texts.sources) == pytest.approx(chunks, abs=2)
    assert 2 <= held < len(found.texts.sources) / 2
    assert found.marks == [document_mark((), "chronicle")]


def test_too_little_text_is_said(llm, tmp_path) -> None:
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        memory.add(Document(id=f"d{n}", text=f"Document number {n} is short.") for n in range(4))
        with pytest.raises(
            InvalidInputError, match="has 4 chunks to train a reader on, expected 10 at least"
        ):
            train_reader(memory, tmp_path / "reader", llm=llm, config=QUICK, progress=False)


def test_large_vocabularies_keep_their_tokens() -> None:
    assert Ragged.of([[70_000, 1], [], [3]])[0].tolist() == [70_000, 1]
    assert Ragged.of([[1], [2]]).values.dtype == np.uint16


# -- the command


@pytest.fixture
def command(memory, llm_folder, asked, tmp_path):
    """Runs `mllm train-llm` on the memory with questions."""
    queries, qrels = asked
    folder = memory.path
    memory.close()
    rows = "\n".join(json.dumps({"id": name, **row}) for name, row in queries.items())
    (tmp_path / "queries.jsonl").write_text(rows, encoding="utf-8")
    lines = ["query\tdocument\tgrade", *(f"{name}\t{name.lower()}\t1" for name in qrels)]
    (tmp_path / "qrels.tsv").write_text("\n".join(lines), encoding="utf-8")
    given = [
        "train-llm",
        folder,
        "--into",
        tmp_path / "reader",
        "--llm",
        llm_folder,
        "--steps",
        1,
        "--rank",
        2,
    ]
    given += ["--queries", tmp_path / "queries.jsonl", "--qrels", tmp_path / "qrels.tsv", "--device", "cpu"]

    def run(*options):
        settings = Settings(encoder=ToyEncoder())
        return CliRunner().invoke(main, list(map(str, [*given, *options])), obj=settings)

    return run


def test_command(command, tmp_path) -> None:
    result = command("--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["folder"] == str(tmp_path / "reader")
    assert MemoryReader.load(tmp_path / "reader").has_seen("anna")
    result = command("--resume", "--start", "none")
    assert result.exit_code == 0, result.output
    assert "2 held-out questions: loss per answer token" in result.stdout
    assert "11 chunks, 9 questions trained on" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--chunks", 10), "multiple of 4"), (("--start", "nowhere"), "no reader in nowhere")],
    ids=["chunks", "start"],
)
def test_command_says_what_is_wrong(command, options, message) -> None:
    result = command(*options)
    assert result.exit_code == 1
    assert message in result.output


def test_grades_without_questions(tmp_path) -> None:
    (tmp_path / "qrels.tsv").write_text("query\tdocument\tgrade\n")
    given = ["train-llm", "--into", str(tmp_path / "a"), "--qrels", str(tmp_path / "qrels.tsv")]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 1
    assert "give both" in result.output
