from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # whose scripts import each other by name
import prepare_data
from beir import read_corpus, read_qrels, read_queries
from distractors import PIECE
from originals import convert_scifact, medquad_split
from prepare_data import main

del sys.path[0]  # for others a script there could stand in for a package

NAMES = ("squad", "scifact", "medquad")


def squad_file(folder: Path) -> Path:
    def article(title: str, word: str) -> dict:
        answers = [{"text": word, "answer_start": 0}, {"text": f"the {word}"}, {"text": word}]
        asked = {"id": f"q-{word}", "question": f"What is {word}? ", "answers": answers}
        return {"title": title, "paragraphs": [{"context": f"{word} is that.", "qas": [asked]}]}

    articles = [article("Oxygen", "air"), article("Held_Back", "none"), article("Geology", "rock")]
    path = folder / "dev-v1.1.json"
    path.write_text(json.dumps({"data": articles}), encoding="utf-8")
    return path


def scifact_files() -> dict[str, str]:
    def lines(*rows: dict) -> str:
        return "".join(json.dumps(row) + "\n" for row in rows)

    documents = [
        {"_id": number, "title": f"T{number}", "text": "one  two", "metadata": {}} for number in "93"
    ]
    claims = [{"_id": str(number), "text": f"claim {number}", "metadata": {}} for number in range(7)]
    train = "".join(f"{number}\t9\t1\n" for number in (5, 4, 3, 2, 1, 0))
    return {
        "scifact/corpus.jsonl": lines(*documents),
        "scifact/queries.jsonl": lines(*claims),
        "scifact/qrels/train.tsv": f"query-id\tcorpus-id\tscore\n{train}0\t3\t1\n",
        "scifact/qrels/test.tsv": "query-id\tcorpus-id\tscore\n6\t9\t1\n",
    }


def medquad_page(focus: str, *pairs: str, identifier: str = 'id="0000001"') -> str:
    body = "".join(
        f'<QAPair pid="{number}"><Question qid="-" qtype="symptoms">{pair}</Answer></QAPair>'
        for number, pair in enumerate(pairs, 1)
    )
    return f'<Document {identifier} url="http://u"><Focus>{focus}</Focus><QAPairs>{body}</QAPairs></Document>'


def medquad_files() -> dict[str, str]:
    ask = "What are {} ?</Question><Answer>\n {}".format
    return {
        "M-1/readme.txt": "none",
        "M-1/1_A_QA/0000001.xml": medquad_page("Gout", ask("gout", "pain,\n  heat"), ask("nothing", "")),
        "M-1/1_A_QA/0000001_1.xml": medquad_page("Gout", ask("more gout?", "rest")),
        "M-1/2_B_QA/0000001.xml": medquad_page("GOUT", ask("GOUT", "swelling"), identifier='fid="1"'),
        "M-1/2_B_QA/0000002.xml": medquad_page("Mumps", ask("held", "back")),
    }


def packed(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def unpacked(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A tiny original of each set, its checksum put in the place of the real one's."""
    folder = tmp_path / "found"
    folder.mkdir()
    paths = {
        "squad": squad_file(folder),
        "scifact": packed(folder / "scifact.zip", scifact_files()),
        "medquad": packed(folder / "medquad.zip", medquad_files()),
    }
    for name, path in paths.items():
        expect(monkeypatch, name, path)
    return paths


def expect(monkeypatch: pytest.MonkeyPatch, name: str, path: Path, **changes: str) -> None:
    source = prepare_data.SOURCES[name]
    checksum = hashlib.new(source.algorithm, path.read_bytes()).hexdigest()
    monkeypatch.setitem(prepare_data.SOURCES, name, replace(source, checksum=checksum, **changes))


@pytest.fixture
def served(originals: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The originals on a web server; gives the paths that were asked for."""
    monkeypatch.setenv("no_proxy", "*")
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    handler = partial(Handler, directory=str(originals["squad"].parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        for name, path in originals.items():
            expect(monkeypatch, name, path, url=f"http://127.0.0.1:{server.server_port}/{path.name}")
        yield asked
        server.shutdown()
        thread.join()


def run(out: Path, name: str, original: Path) -> Path:
    main(["--out", str(out), "--sets", name, "--source", f"{name}={original}"])
    return out / name


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def test_squad(originals: dict[str, Path], tmp_path: Path) -> None:
    folder = run(tmp_path, "squad", originals["squad"])
    first, second = read_corpus(folder)
    assert (first.id, first.text) == ("s00-000", "Geology\nrock is that.")
    assert second.id == "s02-000"
    assert second.metadata == {"order": 0, "split": "train"}
    assert list(read_queries(folder, "dev")) == ["q-rock"]
    asked = read_queries(folder, "train")["q-air"]
    assert (asked["text"], asked["answers"], asked["doc"]) == ("What is air?", ["air", "the air"], "s02-000")
    assert read_qrels(folder) == {"q-rock": {"s00-000": 1}, "q-air": {"s02-000": 1}}


def test_scifact(originals: dict[str, Path], tmp_path: Path) -> None:
    folder = run(tmp_path, "scifact", originals["scifact"])
    assert [(document.id, document.text) for document in read_corpus(folder)] == [
        ("3", "T3\none two"),
        ("9", "T9\none two"),
    ]
    assert list(read_queries(folder, "dev")) == ["0", "5"]
    assert list(read_queries(folder, "train")) == ["1", "2", "3", "4"]
    assert read_qrels(folder)["0"] == {"9": 1, "3": 1}


def test_medquad(originals: dict[str, Path], tmp_path: Path) -> None:
    assert medquad_split("Mumps") == "test"
    assert medquad_split("Gout") == medquad_split("GOUT") == "train"
    folder = run(tmp_path, "medquad", originals["medquad"])
    documents = list(read_corpus(folder))
    assert [document.id for document in documents] == [
        "1_0000001-1",
        "1_0000001-1x",
        "2_None-1",
        "2_0000001-1",
    ]
    assert documents[0].text == "Gout\npain, heat"
    assert documents[0].metadata == {
        "source": "1_A_QA",
        "url": "http://u",
        "doc": "1_0000001",
        "qtype": "symptoms",
    }
    asked = read_queries(folder, None)
    assert {query: row["text"] for query, row in asked.items()} == {
        "q1_0000001-1": "What are gout?",
        "q1_0000001-1x": "What are more gout?",
    }
    assert read_qrels(folder)["q1_0000001-1"] == {"1_0000001-1": 1, "2_None-1": 1}


def test_real_sources_are_pinned() -> None:
    for name in NAMES:
        source = prepare_data.SOURCES[name]
        assert len(source.checksum) == 2 * hashlib.new(source.algorithm).digest_size
        assert source.url.startswith("https://")
        assert source.licence
        assert len(source.measured) == 64


def test_says_whether_the_set_is_that_of_the_figures(
    originals: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run(tmp_path, "scifact", originals["scifact"])
    assert "NOT equal to the data of the published figures" in capsys.readouterr().err
    files = convert_scifact(originals["scifact"]).files()
    expected = hashlib.sha256(b"".join(files.values())).hexdigest()
    expect(monkeypatch, "scifact", originals["scifact"], measured=expected)
    run(tmp_path, "scifact", originals["scifact"])
    assert "; equal to the data of the published figures" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["scifact", "medquad"])
def test_unpacked_folder_gives_the_same_and_is_unverified(
    name: str, originals: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    files = {"scifact": scifact_files, "medquad": medquad_files}[name]()
    folder = unpacked(tmp_path / "unpacked", files)
    assert contents(run(tmp_path / "a", name, folder)) == contents(run(tmp_path / "b", name, originals[name]))
    assert "unverified" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_other_checksum_is_refused(name: str, originals: dict[str, Path], tmp_path: Path) -> None:
    with originals[name].open("ab") as file:
        file.write(b" ")
    with pytest.raises(SystemExit, match=r"(sha256|md5) \w+, expected \w+ of https"):
        run(tmp_path / "out", name, originals[name])
    assert not (tmp_path / "out" / name).exists()


def test_missing_copy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nowhere: no such file; expected a copy of https"):
        run(tmp_path, "squad", tmp_path / "nowhere")


@pytest.mark.parametrize("lacks", ["scifact/corpus.jsonl", "scifact/qrels/train.tsv"])
def test_archive_that_lacks_a_file_is_refused(
    lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = scifact_files()
    del files[lacks]
    path = packed(tmp_path / "s.zip", files)
    expect(monkeypatch, "scifact", path)
    with pytest.raises(SystemExit, match=f"expected one file {lacks.partition('/')[2]} in it, found 0"):
        run(tmp_path, "scifact", path)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("squad", "{}", "not in the form of"),
        ("squad", "no json", "not in the form of"),
        ("scifact", "no archive", "not in the form of"),
    ],
)
def test_other_forms_are_refused(
    name: str, text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "original"
    path.write_text(text, encoding="utf-8")
    expect(monkeypatch, name, path)
    with pytest.raises(SystemExit, match=says):
        run(tmp_path, name, path)


def test_folder_without_pages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="expected MedQuAD's pages"):
        run(tmp_path / "out", "medquad", unpacked(tmp_path / "empty", {"a/readme.txt": ""}))


@pytest.mark.parametrize("argument", ["squad", "squad=", "other=here"])
def test_source_is_a_name_and_a_path(argument: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--source", argument])
    assert "expected NAME=PATH" in capsys.readouterr().err


def test_downloads_once_and_writes_the_same_again(served: list[str], tmp_path: Path) -> None:
    main(["--out", str(tmp_path / "out")])
    before = contents(tmp_path / "out")
    assert {name.partition("/")[0] for name in before} == {*NAMES, "originals"}
    assert not any(name.endswith(".part") for name in before)
    assert len(served) == 3
    main(["--out", str(tmp_path / "out")])
    assert contents(tmp_path / "out") == before
    assert len(served) == 3


def test_damaged_download_is_fetched_again(served: list[str], tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path / "out"), "--sets", "squad"]
    main(arguments)
    kept = tmp_path / "out" / "originals" / "squad.json"
    kept.write_bytes(kept.read_bytes()[:-9])
    main(arguments)
    assert len(served) == 2


def test_download_of_other_content_is_not_kept(
    served: list[str], originals: dict[str, Path], tmp_path: Path
) -> None:
    originals["squad"].write_text("changed", encoding="utf-8")
    with pytest.raises(SystemExit, match="expected"):
        main(["--out", str(tmp_path / "out"), "--sets", "squad"])
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize("break_by", ["no file", "no server"])
def test_failed_download_says_what_to_do(
    break_by: str,
    served: list[str],
    originals: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if break_by == "no server":
        expect(monkeypatch, "squad", originals["squad"], url="http://127.0.0.1:9/none")
    else:
        originals["squad"].unlink()
    with pytest.raises(SystemExit, match=r"cannot be downloaded .*; get it elsewhere and pass --source"):
        main(["--out", str(tmp_path / "out"), "--sets", "squad"])
    assert contents(tmp_path / "out") == {}


PAGES = {
    "a/page.md": """---
title: "Not this one"
---
# Pipes

First words.

## Use ##

One
two.

```sh
# no heading

still code
```

### Deep

Last words.
""",
    "a/untitled.md": "Only text.\n",
    "pep.rst": """PEP: 7
Title: Style
Author: A,
        B

=====
Scope
=====

What it covers.

Names
-----

Short ones::

    # a comment
""",
    ".hidden/secret.md": "# No\n\nno\n",
    "empty.md": "# Nothing\n",
    "other.txt": "no",
}


def pieces(tmp_path: Path, pages: dict[str, str]) -> list[dict]:
    folder = unpacked(tmp_path / "pages", pages)
    main(["--out", str(tmp_path / "out"), "--sets", "--distractors", str(folder)])
    return [
        {"id": document.id, "text": document.text, **document.metadata}
        for document in read_corpus(tmp_path / "out" / "techdocs")
    ]


def test_distractors(tmp_path: Path) -> None:
    found = pieces(tmp_path, PAGES)
    assert [(piece["id"], piece["path"], piece["section"], piece["text"]) for piece in found] == [
        ("d00000-0", "a/page.md", "Pipes", "Pipes\nFirst words."),
        ("d00000-1", "a/page.md", "Use", "Pipes - Use\nOne two. ```sh # no heading still code ```"),
        ("d00000-2", "a/page.md", "Use - Deep", "Pipes - Use - Deep\nLast words."),
        ("d00001-0", "a/untitled.md", "untitled", "untitled\nOnly text."),
        ("d00002-0", "pep.rst", "Scope", "Style - Scope\nWhat it covers."),
        ("d00002-1", "pep.rst", "Scope - Names", "Style - Scope - Names\nShort ones:: # a comment"),
    ]
    assert [piece["order"] for piece in found] == [0, 1, 2, 0, 0, 1]
    assert found[2]["group"] == "d00000"


def test_distractors_are_packed_up_to_the_limit(tmp_path: Path) -> None:
    words = [f"word{number} " * 40 for number in range(30)] + ["long " * 400]
    found = pieces(tmp_path, {"page.md": "\n\n".join(words)})
    texts = [piece["text"].partition("\n")[2] for piece in found]
    assert " ".join(texts).split() == " ".join(words).split()
    assert all(len(text) <= PIECE for text in texts[:-1])
    assert len(texts[-1]) > PIECE
    assert len(texts) == 8


def test_folder_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--distractors takes a folder"):
        pieces(tmp_path, {"a.txt": "x"})
