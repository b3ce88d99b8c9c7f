"""Writes the data sets of the benchmarks from their public sources, in the shape that `beir.py` reads.

    python benchmarks/prepare_data.py --out DIR
    python benchmarks/prepare_data.py --out DIR --sets squad --source squad=dev-v1.1.json
    python benchmarks/prepare_data.py --out DIR --sets --distractors FOLDER

Originals are downloaded once to DIR/originals and checked; `--source NAME=PATH` takes a local copy instead, a
file or an unpacked folder. Each set has a part that is held back from all measurements; it is left out here.

The distractors of `retrieval.py --crowded` are any folder of Markdown or reStructuredText pages. The
published figures took theirs from three repositories, which change daily: expect close, not equal ones.

    git clone --depth 1 https://github.com/MicrosoftDocs/cpp-docs FOLDER/cpp-docs                CC BY 4.0
    git clone --depth 1 https://github.com/MicrosoftDocs/PowerShell-Docs FOLDER/PowerShell-Docs  CC BY 4.0
    git clone --depth 1 https://github.com/python/peps FOLDER/peps                               public domain
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tqdm import tqdm

SQUAD_DEV = frozenset(
    [
        "American_Broadcasting_Company",
        "Black_Death",
        "Geology",
        "Packet_switching",
        "Scottish_Parliament",
        "Teacher",
    ]
)
SQUAD_TRAIN = frozenset(
    [
        "Apollo_program",
        "Chloroplast",
        "Civil_disobedience",
        "Computational_complexity_theory",
        "Construction",
        "Doctor_Who",
        "Economic_inequality",
        "European_Union_law",
        "Force",
        "Genghis_Khan",
        "Harvard_University",
        "Huguenot",
        "Immune_system",
        "Imperialism",
        "Intergovernmental_Panel_on_Climate_Change",
        "Islamism",
        "Kenya",
        "Martin_Luther",
        "Nikola_Tesla",
        "Normans",
        "Oxygen",
        "Pharmacy",
        "Rhine",
        "Southern_California",
        "Steam_engine",
        "Super_Bowl_50",
        "United_Methodist_Church",
        "University_of_Chicago",
        "Victoria_and_Albert_Museum",
        "Yuan_dynasty",
    ]
)
PIECE = 1200  # characters of a distractor, unless one paragraph is longer

_MEDQUAD_PAGE = re.compile(r"(?:^|/)((\d+)_[^/]+)/[^/]+\.xml$")
_QUESTION_END = re.compile(r"(?:\s*\?)+$")
_HEADING = re.compile(r"(#{1,6})\s+(.+?)[\s#]*$")
_FENCE = re.compile(r"\s*(?:```|~~~)[^`]*$")
_MARKDOWN_HEADER = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)
_RST_HEADER = re.compile(r"\A((?::?[A-Z][\w-]*:.*\n(?:[ \t]+\S.*\n)*)+)")
_RST_HEADING = re.compile(r"^(\S.*)\n(([^\w\s])\3{2,})[ \t]*$", re.MULTILINE)
_HEADER_TITLE = re.compile(r"""^:?title:\s*["']?(.+?)["']?\s*$""", re.MULTILINE | re.IGNORECASE)


class DataError(ValueError):
    """An original that is missing, out of reach or not what it should be."""


@dataclass
class DataSet:
    """Documents, questions, and (question, document, grade) judgements."""

    corpus: list[dict[str, Any]] = field(default_factory=list)
    queries: list[dict[str, Any]] = field(default_factory=list)
    qrels: list[tuple[str, str, int]] = field(default_factory=list)

    def files(self) -> dict[str, bytes]:
        """The set's files by name, before compression."""
        header = "query_id\tdoc_id\tscore\n"
        judgements = "".join(f"{query}\t{document}\t{grade}\n" for query, document, grade in self.qrels)
        return {
            "corpus.jsonl": _lines(self.corpus),
            "queries.jsonl": _lines(self.queries),
            "qrels.tsv": (header + judgements).encode(),
        }


@dataclass(frozen=True)
class Source:
    """Where a set comes from.

    Attributes:
        url: The original.
        algorithm: Name in `hashlib` of the original's checksum.
        checksum: The original's published checksum, in hexadecimal digits.
        licence: Its terms.
        convert: Makes the set of the original.
        measured: SHA-256 of the files of the set that the published figures were measured on.
    """

    url: str
    algorithm: str
    checksum: str
    licence: str
    convert: Callable[[Path], DataSet]
    measured: str


def convert_squad(original: Path) -> DataSet:
    """Paragraphs of SQuAD's articles as documents; the number in an id is the article's rank by title."""
    result = DataSet()
    articles = json.loads(original.read_text(encoding="utf-8"))["data"]
    for number, article in enumerate(sorted(articles, key=lambda one: one["title"])):
        title = article["title"]
        if title not in SQUAD_DEV | SQUAD_TRAIN:
            continue
        split = "dev" if title in SQUAD_DEV else "train"
        for order, paragraph in enumerate(article["paragraphs"]):
            document = f"s{number:02d}-{order:03d}"
            row = {"id": document, "title": title, "text": paragraph["context"], "order": order}
            result.corpus.append(row | {"split": split})
            for asked in paragraph["qas"]:
                result.queries.append(_squad_query(asked) | {"doc": document, "title": title, "split": split})
                result.qrels.append((asked["id"], document, 1))
    return result


def convert_scifact(original: Path) -> DataSet:
    """Abstracts, and the claims of BEIR's train part, every fifth for dev. Its test part is left out."""
    documents = _json_lines(_read_file(original, "corpus.jsonl"))
    claims = {row["_id"]: _spaced(row["text"]) for row in _json_lines(_read_file(original, "queries.jsonl"))}
    judged = [line.split("\t") for line in _read_file(original, "qrels/train.tsv").splitlines()[1:]]
    judged.sort(key=lambda judgement: int(judgement[0]))
    result = DataSet(qrels=[(query, document, int(grade)) for query, document, grade in judged])
    for row in sorted(documents, key=lambda row: int(row["_id"])):
        result.corpus.append({"id": row["_id"], "title": _spaced(row["title"]), "text": _spaced(row["text"])})
    for rank, query in enumerate(dict.fromkeys(query for query, _, _ in judged)):
        result.queries.append({"id": query, "text": claims[query], "split": "train" if rank % 5 else "dev"})
    return result


def convert_medquad(original: Path) -> DataSet:
    """Answers as documents. A question on several pages is one query, and all its answers are relevant."""
    result = DataSet()
    asked: dict[str, str] = {}
    for question, row in _medquad_answers(original):
        result.corpus.append(row)
        split = medquad_split(row["title"])
        if split == "test":
            continue
        own = f"q{row['id']}"
        query = asked.setdefault(question.lower(), own)
        if query == own:
            result.queries.append({"id": own, "text": question, "split": split, "qtype": row["qtype"]})
        result.qrels.append((query, row["id"], 1))
    return result


def medquad_split(title: str) -> str:
    """The split of all questions on one disease: a tenth is test and held back, a tenth is dev."""
    hundredth = int(hashlib.md5(title.lower().encode(), usedforsecurity=False).hexdigest(), 16) % 100
    return "test" if hundredth < 10 else "dev" if hundredth < 20 else "train"


def distractors(folder: Path) -> DataSet:
    """Pieces of all Markdown and reStructuredText pages below a folder: a section's paragraphs, packed.

    Args:
        folder: Searched with its subfolders, but for hidden ones.

    Returns:
        A set without questions; ids are `dPAGE-ORDER`.

    Raises:
        DataError: If there is no such page.
    """
    result = DataSet()
    page = 0
    for path in tqdm(_pages(folder), desc="distractors", unit="page"):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        title, pieces = split_page(text, path)
        name = path.relative_to(folder).as_posix()
        for order, (section, piece) in enumerate(pieces):
            heading = title if section == title else f"{title} - {section}"
            row = {"id": f"d{page:05d}-{order}", "title": heading, "text": piece, "group": f"d{page:05d}"}
            result.corpus.append(row | {"path": name, "section": section, "order": order})
        page += bool(pieces)
    if not result.corpus:
        raise DataError(f"{folder}: no text in .md or .rst files there; --distractors takes a folder of them")
    return result


def split_page(text: str, path: Path) -> tuple[str, list[tuple[str, str]]]:
    """A page's title and its (section, text) pieces of at most `PIECE` characters or one paragraph."""
    rst = path.suffix == ".rst"
    header = (_RST_HEADER if rst else _MARKDOWN_HEADER).match(text)
    named = _HEADER_TITLE.search(header[1]) if header else None
    body = text[header.end() :] if header else text
    paragraphs = list(_paragraphs(_rst_as_markdown(body) if rst else body))
    first = next((headings[0] for headings, _ in paragraphs if headings), path.stem)
    title = named[1] if named and (rst or first == path.stem) else first
    pieces = []
    for headings, group in groupby(paragraphs, key=lambda one: one[0]):
        section = " - ".join(headings[1:] if headings[:1] == (title,) else headings) or title
        pieces += [(section, piece) for piece in _packed(paragraph for _, paragraph in group)]
    return title, pieces


SOURCES = {
    "squad": Source(
        url="https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v1.1.json",
        # Recorded in datasets/squad/dataset_infos.json of github.com/huggingface/datasets.
        algorithm="sha256",
        checksum="95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9",
        licence="CC BY-SA 4.0",
        convert=convert_squad,
        measured="a6b7a69c2d650f0e3806a22b782d6949bca219f50b4e466f5db14ee10a439b55",
    ),
    "scifact": Source(
        url="https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/scifact.zip",
        # Published as MD5 in the table of data sets in the README of github.com/beir-cellar/beir.
        algorithm="md5",
        checksum="5f7d1de60b170fc8027bb7898e2efca1",
        licence="claims CC BY 4.0, abstracts ODC-By 1.0",
        convert=convert_scifact,
        measured="ddb474d9257d0d712fb9d5fff6e860bcf010e1dff52c9deaa366d49ca6876dc3",
    ),
    "medquad": Source(
        url="https://codeload.github.com/abachaa/MedQuAD/zip/577bd37b96c02d1833b2c9eed2de9f96964e96cb",
        # The authors publish none. Two public projects that use this commit recorded the same SHA-256; GitHub
        # may pack the commit anew some day, and then an unpacked folder is the way in.
        algorithm="sha256",
        checksum="161d948f8ce8f82accca1f5769a512dff2a01af2b3004d48f2b3da2758a38a09",
        licence="CC BY 4.0",
        convert=convert_medquad,
        measured="f742be868cab6c3d42007b4b4b35cceb08fc0fac5750b821963ea5df7352edde",
    ),
}


def prepare(name: str, out: Path, local: Path | None = None) -> None:
    """Writes one set.

    Args:
        name: One of `SOURCES`.
        out: Gets the folder `name`, and `originals` for what is downloaded.
        local: A copy of the original, or a folder of its files; a folder has no checksum.

    Raises:
        DataError: If the original is missing, out of reach, or not the expected one.
    """
    source = SOURCES[name]
    original = _checked(name, source, local) if local else _downloaded(name, source, out / "originals")
    try:
        converted = source.convert(original)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{original}: not in the form of {source.url} ({error!r})") from error
    files = converted.files()
    _write(out / name, files)
    same = hashlib.sha256(b"".join(files.values())).hexdigest() == source.measured
    splits = [row["split"] for row in converted.queries]
    _say(
        f"{name}: {len(converted.corpus)} documents, {splits.count('train')} train and "
        f"{splits.count('dev')} dev questions in {out / name}; {source.licence}; "
        f"{'equal to' if same else 'NOT equal to'} the data of the published figures"
    )


def _downloaded(name: str, source: Source, folder: Path) -> Path:
    path = folder / f"{name}{Path(source.url).suffix or '.zip'}"
    if path.is_file() and _checksum(path, source.algorithm) == source.checksum:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        _fetch(source.url, part)
        _checked(name, source, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _fetch(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as file:
            size = int(answer.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, desc=path.stem, unit="B", unit_scale=True) as progress:
                while block := answer.read(1 << 16):
                    file.write(block)
                    progress.update(len(block))
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(
            f"{url}: cannot be downloaded ({error}); get it elsewhere and pass --source NAME=PATH"
        ) from error


def _checked(name: str, source: Source, path: Path) -> Path:
    if path.is_dir():
        _say(f"{name}: {path} is a folder and has no checksum: unverified")
        return path
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a copy of {source.url}, or a folder of its files")
    found = _checksum(path, source.algorithm)
    if found != source.checksum:
        raise DataError(
            f"{path}: {source.algorithm} {found}, expected {source.checksum} of {source.url}; "
            f"get it again, or unpack it and pass the folder, unverified: --source {name}=FOLDER"
        )
    return path


def _checksum(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts = {folder / f"{name}.gz": folder / f"{name}.gz.part" for name in files}
    try:
        for part, content in zip(parts.values(), files.values(), strict=True):
            part.write_bytes(gzip.compress(content, mtime=0))
        for path, part in parts.items():
            part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n") if line]


def _spaced(text: str | None) -> str:
    return " ".join((text or "").split())


def _read_files(original: Path, wanted: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
    """Files of a folder or of an archive by match of their paths, sorted."""
    if original.is_dir():
        paths = {path.relative_to(original.parent).as_posix(): path for path in original.rglob("*")}
        yield from ((match, paths[match.string].read_bytes()) for match in _matches(paths, wanted))
        return
    with zipfile.ZipFile(original) as archive:
        yield from ((match, archive.read(match.string)) for match in _matches(archive.namelist(), wanted))


def _matches(names: Iterable[str], wanted: re.Pattern[str]) -> list[re.Match[str]]:
    return [match for name in sorted(names) if (match := wanted.search(name))]


def _read_file(original: Path, name: str) -> str:
    found = list(_read_files(original, re.compile(rf"(?:^|/){re.escape(name)}$")))
    if len(found) != 1:
        raise DataError(f"{original}: expected one file {name} in it, found {len(found)}")
    return found[0][1].decode()


def _squad_query(asked: dict[str, Any]) -> dict[str, Any]:
    answers = dict.fromkeys(answer["text"].strip() for answer in asked["answers"])
    return {"id": asked["id"], "text": asked["question"].strip(), "answers": list(answers)}


def _medquad_answers(original: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each question that has an answer, with the answer's row."""
    taken: set[str] = set()
    for name, content in _read_files(original, _MEDQUAD_PAGE):
        page = ElementTree.fromstring(content)
        title, url = _spaced(page.findtext("Focus")), page.attrib["url"]
        document = f"{name[2]}_{page.get('id')}"  # one page of the original has no id and becomes None
        for pair in page.iter("QAPair"):
            question, text = pair.find("Question"), _spaced(pair.findtext("Answer"))
            if question is None or not text:
                continue
            identifier = _untaken(f"{document}-{pair.attrib['pid']}", taken)
            row = {"id": identifier, "title": title, "text": text, "source": name[1], "url": url}
            row |= {"doc": document, "qtype": question.attrib["qtype"]}
            yield _QUESTION_END.sub("?", _spaced(question.text)), row
    if not taken:
        raise DataError(f"{original}: expected MedQuAD's pages in it, such as 1_CancerGov_QA/0000001_1.xml")


def _untaken(identifier: str, taken: set[str]) -> str:
    while identifier in taken:  # a few pages of the original share theirs
        identifier += "x"
    taken.add(identifier)
    return identifier


def _pages(folder: Path) -> list[Path]:
    paths = (path for path in folder.rglob("*") if path.suffix in (".md", ".rst") and path.is_file())
    return sorted(
        path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _paragraphs(markdown: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Paragraphs with words, each with the headings above it; a fenced block is never cut."""
    headings: tuple[str, ...] = ()
    lines: list[str] = []
    fenced = False
    for line in [*markdown.splitlines(), ""]:
        heading = None if fenced else _HEADING.match(line)
        if line.strip() and not heading:
            lines.append(line)
        elif not fenced:
            yield from _paragraph(headings, lines)
            lines = []
        if heading:
            headings = (*headings[: len(heading[1]) - 1], heading[2])
        fenced ^= bool(_FENCE.match(line))
    yield from _paragraph(headings, lines)


def _paragraph(headings: tuple[str, ...], lines: list[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    text = _spaced(" ".join(lines))
    if re.search(r"\w", text):
        yield headings, text


def _packed(paragraphs: Iterable[str]) -> Iterator[str]:
    piece = ""
    for paragraph in paragraphs:
        if piece and len(piece) + 1 + len(paragraph) > PIECE:
            yield piece
            piece = ""
        piece = f"{piece} {paragraph}".strip()
    yield piece


def _rst_as_markdown(text: str) -> str:
    """Underlined headings as Markdown's; their order of appearance tells the levels."""
    levels: list[str] = []

    def heading(match: re.Match[str]) -> str:
        title, line, character = match.groups()
        if len(line) < len(title.rstrip()):
            return match[0]
        if character not in levels:
            levels.append(character)
        return f"{'#' * min(levels.index(character) + 1, 6)} {title}"

    return _RST_HEADING.sub(heading, text)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _local_copy(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if name not in SOURCES or not separator or not path:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=PATH, NAME one of {', '.join(SOURCES)}")
    return name, Path(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the sets: --data of retrieval.py")
    parser.add_argument("--sets", nargs="*", choices=SOURCES, default=list(SOURCES), metavar="NAME")
    parser.add_argument(
        "--source", action="append", type=_local_copy, default=[], metavar="NAME=PATH", help="a local copy"
    )
    parser.add_argument(
        "--distractors", type=Path, metavar="FOLDER", help="pages to cut into the set techdocs"
    )
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    try:
        for name in options.sets:
            prepare(name, options.out, dict(options.source).get(name))
        if options.distractors:
            pieces = distractors(options.distractors)
            _write(options.out / "techdocs", {"corpus.jsonl": pieces.files()["corpus.jsonl"]})
            _say(f"techdocs: {len(pieces.corpus)} pieces in {options.out / 'techdocs'}")
    except DataError as error:
        sys.exit(f"prepare_data: {error}")
    _say(f"done in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
