"""`train_llm` and `mllm train-llm`: from a memory to a folder that a language model can use."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from toy import ToyEncoder

from mllm_plugin import Document
from mllm_plugin.cli import main
from mllm_plugin.cli.settings import Settings
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.hierarchy import document_mark
from mllm_plugin.llm.adapter import Adapter
from mllm_plugin.training.llm.config import LLMTrainingConfig
from mllm_plugin.training.llm.examples import Examples
from mllm_plugin.training.llm.run import train_llm

QUICK = LLMTrainingConfig(
    steps=2, groups=2, evaluate_every=2, lora_rank=2, projector_width=8, start_steps=2, windows=(1, 4),
    evaluate_questions=2, answer_tokens=8,
)  # fmt: skip


@pytest.fixture
def long_memory(memory):
    """Documents that are long enough to be cut in two."""
    memory.remove([one.id for one in memory.documents()])
    words = ["the", "river", "runs", "past", "old", "mills", "and", "quiet", "fields", "to", "the", "sea"]
    memory.add(Document(id=f"d{place}", text=" ".join([f"n{place}", *words * 5])) for place in range(8))
    return memory


@pytest.fixture
def asked(questions):
    """The same questions as rows and grades by id."""
    rows = {one.documents[0]: {"text": one.text, "answers": list(one.answers)} for one in questions}
    return rows, {name: {name: 1} for name in rows}


def test_questions(memory, llm_folder, asked, tmp_path) -> None:
    queries, qrels = asked
    report = train_llm(
        memory, tmp_path, queries=queries, qrels=qrels, llm=llm_folder, k=3, config=QUICK, progress=False
    )
    adapter = Adapter.load(tmp_path)
    assert report.questions + report.held_out == len(queries)
    assert set(report.losses) == set(report.scores) == {"none", "memory", "both", "cut", "text"}
    assert adapter.config.encoder == memory.encoder.fingerprint
    assert adapter.has_seen("anna")
    assert not adapter.has_seen("nobody")
    memory.add([Document("never trained on", id="new")])
    memory.install("identity")  # replaces the memory's own weights and forgets no adapter
    assert memory.remove(["new"]).weights == ()
    assert memory.remove(["anna"]).weights == (f"adapter:{tmp_path.resolve()}",)
    assert memory.verify().problems == ()
    assert json.loads((tmp_path / "curves.json").read_text())["history"][0]["step"] == 0


def test_passages_need_no_questions(long_memory, llm_folder, tmp_path) -> None:
    report = train_llm(
        long_memory, tmp_path, llm=llm_folder, passages=60, config=QUICK, progress=False, namespace=()
    )
    assert report.questions + report.held_out == 60
    [saved] = (tmp_path / "checkpoints").iterdir()
    examples = Examples.load(saved)
    heads, tails = examples.texts, [one.answers[0] for one in examples.questions]
    documents = {one.text for one in long_memory.documents()}
    assert all(any(f"{h} {t}" in text for text in documents) for h, t in zip(heads, tails, strict=True))
    held = {document_mark((), one.id) for one in long_memory.documents()}
    assert set(Adapter.load(tmp_path).config.documents) <= held


def test_short_documents_are_refused(memory, llm_folder, tmp_path) -> None:
    with pytest.raises(InvalidInputError, match="nothing to go on with"):
        train_llm(memory, tmp_path, llm=llm_folder, config=QUICK, progress=False)


def test_command(memory, llm_folder, asked, tmp_path) -> None:
    queries, qrels = asked
    folder = memory.path
    memory.close()
    (tmp_path / "queries.jsonl").write_text(
        "\n".join(json.dumps({"id": name, **row}) for name, row in queries.items()), encoding="utf-8"
    )
    lines = ["query\tdocument\tgrade", *(f"{name}\t{name}\t1" for name in qrels)]
    (tmp_path / "qrels.tsv").write_text("\n".join(lines), encoding="utf-8")
    command = [
        "train-llm", str(folder), "--into", str(tmp_path / "adapter"), "--llm", str(llm_folder),
        "--queries", str(tmp_path / "queries.jsonl"), "--qrels", str(tmp_path / "qrels.tsv"),
        "--steps", "1", "--lora-rank", "0", "--device", "cpu",
    ]  # fmt: skip
    settings = Settings(encoder=ToyEncoder(16))
    result = CliRunner().invoke(main, [*command, "--json"], obj=settings)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["folder"] == str(tmp_path / "adapter")
    assert Adapter.load(tmp_path / "adapter").config.lora_rank == 0
    result = CliRunner().invoke(main, [*command, "--resume"], obj=Settings(encoder=ToyEncoder(16)))
    assert result.exit_code == 0, result.output
    assert "held out, per mode" in result.stdout


def test_grades_without_questions(tmp_path, memory) -> None:
    (tmp_path / "qrels.tsv").write_text("query\tdocument\tgrade\n")
    command = ["train-llm", "--into", str(tmp_path / "a"), "--qrels", str(tmp_path / "qrels.tsv")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "give both" in result.output
