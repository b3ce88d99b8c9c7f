"""Turns the originals of SQuAD, SciFact and MedQuAD into the shape that `beir.py` reads."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

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
_MEDQUAD_PAGE = re.compile(r"(?:^|/)((\d+)_[^/]+)/[^/]+\.xml$")
_QUESTION_END = re.compile(r"(?:\s*\?)+$")


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
    claims = {row["_id"]: spaced(row["text"]) for row in _json_lines(_read_file(original, "queries.jsonl"))}
    judged = [line.split("\t") for line in _read_file(original, "qrels/train.tsv").splitlines()[1:]]
    judged.sort(key=lambda judgement: int(judgement[0]))
    result = DataSet(qrels=[(query, document, int(grade)) for query, document, grade in judged])
    for row in sorted(documents, key=lambda row: int(row["_id"])):
        result.corpus.append({"id": row["_id"], "title": spaced(row["title"]), "text": spaced(row["text"])})
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


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n") if line]


def spaced(text: str | None) -> str:
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
        title, url = spaced(page.findtext("Focus")), page.attrib["url"]
        document = f"{name[2]}_{page.get('id')}"  # one page of the original has no id and becomes None
        for pair in page.iter("QAPair"):
            question, text = pair.find("Question"), spaced(pair.findtext("Answer"))
            if question is None or not text:
                continue
            identifier = _untaken(f"{document}-{pair.attrib['pid']}", taken)
            row = {"id": identifier, "title": title, "text": text, "source": name[1], "url": url}
            row |= {"doc": document, "qtype": question.attrib["qtype"]}
            yield _QUESTION_END.sub("?", spaced(question.text)), row
    if not taken:
        raise DataError(f"{original}: expected MedQuAD's pages in it, such as 1_CancerGov_QA/0000001_1.xml")


def _untaken(identifier: str, taken: set[str]) -> str:
    while identifier in taken:  # a few pages of the original share theirs
        identifier += "x"
    taken.add(identifier)
    return identifier
