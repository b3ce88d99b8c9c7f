"""`mllm train` and `mllm install` on a tiny memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mllm_plugin import Document, LexicalConfig, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.hierarchy import Hierarchy, LeafRanker, MappedRanker
from tests.helpers.toy import ToyEncoder

DIM = 16
WORDS = ["oak", "elm", "ash", "fir", "yew", "bay", "fig", "nut", "sap", "bud", "bark", "root", "leaf", "twig"]
QUICK = ("--steps", 2, "--batch", 16, "--levels", 2)


@pytest.fixture
def grown(folder: Path, encoder: ToyEncoder) -> Path:
    """A memory of 90 documents in three levels."""
    rng = np.random.default_rng(0)
    config = MemoryConfig(tree=TreeConfig(fan_out=4), lexical=LexicalConfig(posting_limit=1))
    with MemoryIndex.open(folder, encoder=encoder, config=config) as memory:
        memory.add(
            Document(f"n{place} " + " ".join(rng.choice(WORDS, 10)), id=f"d{place}") for place in range(90)
        )
    return folder


@pytest.fixture
def weights(tmp_path: Path, encoder: ToyEncoder) -> Path:
    """A folder of weights that turn the queries and rank by words."""
    return save_weights(tmp_path / "weights", encoder.fingerprint)


def save_weights(folder: Path, encoder: str) -> Path:
    numbers = {"scale": 1.0, "offset": 0.0, "path": 0.1, "slack": 0.5}
    tensors = {name: np.array([value], np.float32) for name, value in numbers.items()}
    turn = 0.1 * np.random.default_rng(1).normal(size=(DIM, DIM))
    ranker = MappedRanker({"map": turn.astype(np.float32), **tensors})
    leaf = LeafRanker(
        tensors={"weights": np.array([1, 1, 2], np.float32), "relevance": np.ones(2, np.float32)}
    )
    Hierarchy(rankers={2: ranker}, leaf_ranker=leaf).save(folder, encoder=encoder)
    return folder


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Path, Path]:
    """Questions that name a document by its number and few of its words, and their grades."""
    rng = np.random.default_rng(2)
    rows = [(f"q{place}", f"n{place % 90} {' '.join(rng.choice(WORDS, 3))}") for place in range(500)]
    queries, qrels = tmp_path / "queries.jsonl", tmp_path / "qrels.tsv"
    queries.write_text("".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in rows))
    graded = "".join(f"q{place}\td{place % 90}\t1\n" for place in range(500))
    qrels.write_text(f"query-id\tcorpus-id\tscore\n{graded}\n")
    return queries, qrels


def test_training_without_labels(mllm: Callable, mllm_json: Callable, grown: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = mllm("train", "--out", out, "--spans", 60, *QUICK).stdout
    assert "misses" in printed
    assert "60 questions" in printed
    assert (out / "curves.json").is_file()
    report = mllm_json("train", "--out", out, "--spans", 60, *QUICK)  # goes on where the first run ended
    assert report["queries"] == 60
    assert report["leaf"] == ""
    assert bool(report["kept"]) == bool(report["folder"]) == ("weights in" in printed)
    assert mllm_json("stats")["documents"] == 90


def test_training_with_labels_and_installing_at_once(
    mllm: Callable, mllm_json: Callable, grown: Path, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    queries, qrels = labelled
    options = ("--queries", queries, "--qrels", qrels, "--spans", 0, *QUICK)
    report = mllm_json("train", "--out", tmp_path / "out", *options, "--install")
    assert report["queries"] == 500
    assert "nDCG@10" in report["leaf"]
    with MemoryIndex.open(grown, encoder=None) as memory:
        assert memory.hierarchy.fingerprint == (report["fingerprint"] or "identity")
        assert memory.verify().ok
    if report["kept"]:
        removed = mllm("remove", "d3", "--yes").stdout
        assert f"trained on what was removed: {report['fingerprint']}" in removed


def test_installing_a_folder_and_going_back(
    mllm: Callable, mllm_json: Callable, grown: Path, weights: Path
) -> None:
    before = mllm_json("search", "oak elm n3")["hits"]
    report = mllm_json("install", weights)
    assert report["replaced"] == "identity"
    assert report["nodes"] > 20
    assert "in place already" in mllm("install", weights).stdout
    assert mllm_json("search", "oak elm n3")["hits"] != before
    assert mllm_json("verify")["ok"]
    assert f"identity in place of {report['fingerprint']}" in mllm("install", "identity").stdout
    assert mllm_json("search", "oak elm n3")["hits"] == before


def test_the_package_has_no_weights_for_a_toy_encoder(mllm: Callable, grown: Path) -> None:
    assert "identity is in place already" in mllm("install", "default").stdout


def test_weights_that_are_not_there_or_for_another_encoder(
    mllm: Callable, mllm_json: Callable, grown: Path, tmp_path: Path
) -> None:
    missing = mllm("install", tmp_path / "nowhere", code=1).stderr
    assert "no trained hierarchy" in missing
    assert missing.count("\n") == 1
    other = save_weights(tmp_path / "other", "another encoder")
    assert mllm_json("install", other, code=1)["error"]["type"] == "EncoderMismatchError"
    (other / "hierarchy.safetensors").write_bytes(b"rubbish")
    assert "cannot be read" in mllm("install", other, code=1).stderr


@pytest.mark.parametrize(
    ("queries", "qrels", "message"),
    [
        ("not json", None, "line 1: not JSON"),
        ('\n{"id": "a"}', None, "line 2: expected an object with id and text"),
        ("[1]", None, "expected an object"),
        ('{"id": "a", "text": "one\u2028two"}', None, "too few to train on"),
        ('{"id": "a", "text": "oak"}', "head\na\td1\tmuch", "line 2: expected query id"),
        ('{"id": "a", "text": "oak"}', "head\n\na d1 1", "line 3: expected query id"),
        (b"\xff\xfe", None, "not UTF-8"),
    ],
    ids=["no-json", "no-text", "a-list", "line-separator", "grade", "blanks", "bytes"],
)
def test_bad_files_are_one_line(
    mllm: Callable, grown: Path, tmp_path: Path, queries: str | bytes, qrels: str | None, message: str
) -> None:
    asked, graded = tmp_path / "queries.jsonl", tmp_path / "qrels.tsv"
    asked.write_bytes(queries if isinstance(queries, bytes) else queries.encode())
    options = ["--queries", asked, "--spans", 0]
    if qrels is not None:
        graded.write_text(qrels)
        options += ["--qrels", graded]
    found = mllm("train", "--out", tmp_path / "out", *options, code=1).stderr
    assert message in found
    assert found.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_not_enough(mllm: Callable, grown: Path, labelled: tuple[Path, Path], tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    assert "too few" in mllm("train", *out, "--spans", 4, code=1).stderr
    assert "'abacus' cannot be used" in mllm("train", *out, "--device", "abacus", code=1).stderr
    assert "give both" in mllm("train", *out, "--qrels", labelled[1], code=1).stderr
    assert "does not exist" in mllm("train", *out, "--queries", tmp_path / "none", code=2).stderr
    assert "no memory" in mllm("train", *out, memory=tmp_path / "none", code=1).stderr
