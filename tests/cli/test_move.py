from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from mllm_plugin import Document, MemoryIndex
from tests.helpers.toy import ToyEncoder


@pytest.fixture
def filled(folder: Path, encoder: ToyEncoder) -> Path:
    """A memory with two namespaces, labels, a mask, and a document of several chunks."""
    with MemoryIndex.open(folder, encoder=encoder) as memory:
        long = " ".join(f"Sentence number {number} is about topic {number % 7}." for number in range(90))
        memory.add([Document(long, "long", {"pages": [1, 2]}, ("book",)), Document("Short text.", "short")])
        memory.add(
            [Document("A piece that is never cut. " * 30, "piece")], namespace=("users", "1"), split=False
        )
        memory.mask(["short"], label="draft")
    encoder.encoded.clear()
    return folder


def contents(folder: Path) -> list[dict]:
    with MemoryIndex.open(folder, encoder=None) as memory:
        assert memory.verify().ok
        return list(memory.export())


def write_lines(path: Path, *items: object) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_a_round_trip_with_vectors_calls_no_encoder(
    mllm, mllm_json, filled: Path, tmp_path: Path, encoder, name
) -> None:
    other = tmp_path / "other"
    report = mllm_json("export", tmp_path / name, "--vectors")
    assert (report["documents"], report["vectors"]) == (3, True)
    imported = mllm_json("import", tmp_path / name, memory=other)
    assert (imported["documents"], imported["added"], imported["encoded"]) == (3, 3, 0)
    assert encoder.encoded == []
    assert contents(other) == contents(filled)
    hits = [mllm_json("search", "topic 3", "-k", "4", memory=where)["hits"] for where in (filled, other)]
    assert [(hit["start"], hit["score"]) for hit in hits[0]] == [
        (hit["start"], hit["score"]) for hit in hits[1]
    ]


def test_export_is_the_same_each_time_and_leaves_nothing_half_done(
    mllm, filled: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl.gz"
    mllm("export", first)
    mllm("export", second)
    assert first.read_bytes() == second.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"memory", "a.jsonl.gz", "b.jsonl.gz"}
    assert "make it first" in mllm("export", tmp_path / "no" / "a.jsonl", code=1).stderr


def test_export_without_vectors_is_encoded_again(
    mllm, mllm_json, filled: Path, tmp_path: Path, encoder
) -> None:
    mllm("export", tmp_path / "texts.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    assert all("chunks" not in line for line in lines)
    assert lines[1]["masks"] == ["draft"]
    report = mllm_json("import", tmp_path / "texts.jsonl", memory=tmp_path / "other")
    assert report["encoded"] == len(encoder.encoded) > 3
    assert [one["masks"] for one in contents(tmp_path / "other")] == [
        one["masks"] for one in contents(filled)
    ]


def test_one_namespace_moves_below_another(mllm, mllm_json, filled: Path, tmp_path: Path) -> None:
    mllm("export", tmp_path / "one.jsonl", "--vectors", "--namespace", "users")
    mllm("import", tmp_path / "one.jsonl", "--namespace", "copy")
    assert [one["id"] for one in mllm_json("list", "--namespace", '["copy", "users", "1"]')] == ["piece"]


def test_lines_of_others_with_vectors(mllm, mllm_json, tmp_path: Path, encoder: ToyEncoder) -> None:
    vectors = encoder.encode_queries(["red apples", "green pears"]).tolist()
    path = write_lines(
        tmp_path / "others.jsonl",
        {"_id": 7, "page_content": "red apples", "vector": vectors[0], "title": "Apples", "labels": "fruit"},
        {"id": "b", "text": "green pears", "embedding": vectors[1], "metadata": {"year": 2024}},
    )
    assert "which encoder made these vectors of 16 dimensions" in mllm("import", path, code=2).stderr
    report = mllm_json("import", path, "--fingerprint", encoder.fingerprint)
    assert (report["added"], report["encoded"]) == (2, 0)
    (hit,) = mllm_json("search", "red apples", "-k", "1")["hits"]
    assert (hit["document_id"], hit["metadata"]) == ("7", {"title": "Apples"})
    assert {tuple(one["labels"]) for one in mllm_json("list")} == {("fruit",), ()}
    assert encoder.encoded == []


def test_the_encoder_of_vectors_may_be_named(mllm, mllm_json, tmp_path: Path, encoder: ToyEncoder) -> None:
    vector = encoder.encode_queries(["red apples"])[0].tolist()
    path = write_lines(tmp_path / "others.jsonl", {"id": "a", "text": "red apples", "vector": vector})
    error = mllm("import", path, named=ToyEncoder(dim=8), code=1).stderr
    assert "the vectors have 16 dimensions, the encoder 8" in error
    assert not (tmp_path / "memory").exists()
    assert mllm_json("import", path, named=encoder)["added"] == 1
    assert encoder.encoded == []


def test_an_export_is_embedded_anew_when_another_encoder_is_named(
    mllm, mllm_json, filled, tmp_path: Path
) -> None:
    mllm("export", tmp_path / "all.jsonl", "--vectors", "--namespace", "users")
    other = ToyEncoder(windows=False)
    assert mllm_json("import", tmp_path / "all.jsonl", memory=tmp_path / "other", named=other)["encoded"] == 1
    assert len(other.encoded) == 1


def test_lines_of_others_without_vectors(mllm, mllm_json, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "texts.jsonl", {"id": "a", "text": "red apples", "namespace": ["x"]})
    path.write_text(path.read_text() + "\n\n")
    assert "1 document: 1 added" in mllm("import", path).stdout
    assert mllm_json("list", "--namespace", "x")[0]["id"] == "a"


def test_vectors_of_another_encoder_are_refused(mllm, mllm_json, filled: Path, tmp_path: Path) -> None:
    mllm("export", tmp_path / "all.jsonl", "--vectors")
    mllm("import", write_lines(tmp_path / "x.jsonl", {"id": "a", "text": "t"}), memory=tmp_path / "other")
    text = (tmp_path / "all.jsonl").read_text().replace("toy:16:1", "other:16")
    (tmp_path / "all.jsonl").write_text(text)
    result = mllm("import", tmp_path / "all.jsonl", memory=tmp_path / "other", code=1)
    assert "the vectors are of encoder 'other:16'" in result.stderr
    assert len(mllm_json("list", memory=tmp_path / "other")) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "b", "text": ', "line 2: not JSON"),
        ("[1]", "line 2: expected an object"),
        ('{"id": "b"}', "line 2: 'text': Input should be a valid string"),
        ('{"text": "t"}', "line 2: 'id': Input should be"),
        ('{"id": "b", "text": " "}', "line 2: 'text': is empty"),
        ('{"id": "b", "text": "t", "metadata": 3}', "line 2: 'metadata': Input should be a valid dictionary"),
        ('{"id": "b", "text": "t", "labels": [3]}', "line 2: 'labels.0': Input should be a valid string"),
        ('{"id": "b", "text": "t\\ud800"}', "lone surrogate"),
        ('{"id": "b", "text": "t", "embedding": [1, 0]}', "nobody says which encoder"),
        ("[" * 100_000, "line 2: not JSON"),
        ("\x00\x01", "line 2: not JSON"),
    ],
    ids=[
        "cut",
        "list",
        "no text",
        "no id",
        "blank",
        "metadata",
        "labels",
        "surrogate",
        "vector",
        "deep",
        "NUL",
    ],
)
def test_a_bad_line_is_named(mllm, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"id": "a", "text": "t"}}\n{line}\n')
    assert message in mllm("import", path, code=1).stderr
    assert "all well" in mllm("verify").stdout


def test_other_bad_imports(mllm, tmp_path: Path) -> None:
    assert "no file or folder" in mllm("import", tmp_path / "none", code=1).stderr
    assert "neither a Chroma database" in mllm("import", tmp_path, code=1).stderr
    packed = tmp_path / "cut.jsonl.gz"
    lines = "".join(f'{{"id": "{number}", "text": "t"}}\n' for number in range(100))
    packed.write_bytes(gzip.compress(lines.encode())[:-20])
    assert "no complete gzip file" in mllm("import", packed, code=1).stderr
    plain = tmp_path / "plain.jsonl.gz"
    plain.write_text('{"id": "a", "text": "t"}\n')
    assert "no complete gzip file" in mllm("import", plain, code=1).stderr


def test_a_missing_client_says_what_to_install(mllm, tmp_path: Path, monkeypatch) -> None:
    import sys

    for name in ("chromadb", "lancedb"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "chroma.sqlite3").touch()
    (tmp_path / "l" / "t.lance").mkdir(parents=True)
    assert "mllm-plugin[chroma]" in mllm("import", tmp_path / "c", code=1).stderr
    assert "mllm-plugin[lancedb]" in mllm("import", tmp_path / "l", code=1).stderr


ROWS = 1200


def test_a_chroma_folder(mllm, mllm_json, tmp_path: Path, encoder: ToyEncoder) -> None:
    chromadb = pytest.importorskip("chromadb", reason="pip install chromadb")
    client = chromadb.PersistentClient(
        str(tmp_path / "chroma"), chromadb.config.Settings(anonymized_telemetry=False)
    )
    collection = client.create_collection("docs")
    texts = [f"row {number} of the collection" for number in range(ROWS)]
    collection.add(
        ids=[f"r{number}" for number in range(ROWS)],
        embeddings=encoder.encode_queries(texts),
        documents=[*texts[:-1], None],
        metadatas=[{"number": number} for number in range(ROWS)],
    )
    client.create_collection("empty")
    source = tmp_path / "chroma"
    assert (
        "name one Chroma collection with --collection; there are: docs, empty"
        in mllm("import", source, code=1).stderr
    )
    assert "no Chroma collection 'x'" in mllm("import", source, "--collection", "x", code=1).stderr
    error = mllm("import", source, "--collection", "docs", code=2).stderr
    assert "all-MiniLM-L6-v2" in error.replace("\n", "")
    report = mllm_json("import", source, "--collection", "docs", "--fingerprint", encoder.fingerprint)
    assert (report["added"], report["encoded"], report["without_text"]) == (ROWS - 1, 0, 1)
    (hit,) = mllm_json("search", "row 1007 of the collection", "-k", "1")["hits"]
    assert (hit["document_id"], hit["metadata"]) == ("r1007", {"number": 1007})
    assert mllm_json("verify")["ok"]


def test_a_lance_folder(mllm, mllm_json, tmp_path: Path, encoder: ToyEncoder) -> None:
    lancedb = pytest.importorskip("lancedb", reason="pip install lancedb")
    texts = [f"row {number} of the table" for number in range(ROWS)]
    vectors = encoder.encode_queries(texts).tolist()
    rows = [
        {"key": f"r{number}", "body": text, "vector": vector, "metadata": {"number": number}, "kind": "row"}
        for number, (text, vector) in enumerate(zip(texts, vectors, strict=True))
    ]
    source = tmp_path / "lance"
    lancedb.connect(str(source)).create_table("docs", rows)
    options = ["--fingerprint", encoder.fingerprint, "--text-column", "body"]
    assert "--id-column" in mllm("import", source, *options, code=1).stderr
    assert "no column 'no'" in mllm("import", source, *options, "--id-column", "no", code=1).stderr
    report = mllm_json("import", source, *options, "--id-column", "key")
    assert (report["added"], report["encoded"]) == (ROWS, 0)
    (hit,) = mllm_json("search", "row 1007 of the table", "-k", "1")["hits"]
    assert (hit["document_id"], hit["metadata"]) == ("r1007", {"number": 1007, "kind": "row"})


def test_reembed_writes_a_copy_of_another_encoder(mllm, mllm_json, filled: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    before = contents(filled)
    report = mllm_json("reembed", copy, named=ToyEncoder(32))
    assert (report["documents"], report["encoder"], report["memory"]) == (3, "toy:32:1", str(copy))
    assert contents(filled) == before
    with MemoryIndex.open(copy, encoder=None) as memory:
        assert (memory.dim, memory.stats().masked_documents) == (32, 1)
    again = mllm("reembed", copy, named=ToyEncoder(32), code=1)
    assert "a memory of its own" in again.stderr
