"""Questions, their answers and grades as files, which `mllm train` and `mllm train-llm` take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mllm_plugin.cli.settings import UserPath
from mllm_plugin.errors import InvalidInputError


def file_option(name: str, text: str) -> Any:
    """An option that takes a file that is there."""
    return click.option(name, type=UserPath(dir_okay=False, exists=True), help=text)


def read_queries(path: Path) -> Iterator[tuple[str, str]]:
    """Ids and texts of questions, one a line.

    Raises:
        InvalidInputError: A line is none.
    """
    for number, row in _rows(path):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise InvalidInputError(f"{path}, line {number}: expected an object with id and text")
        yield str(row.get("id", row.get("_id", number))), row["text"]


def read_answered(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ids and rows of questions with their answers, one a line.

    Raises:
        InvalidInputError: A line is none.
    """
    for number, row in _rows(path):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise InvalidInputError(f"{path}, line {number}: expected an object with id, text and answers")
        answers = row.get("answers", [])
        if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
            raise InvalidInputError(
                f"{path}, line {number}: answers must be a list of texts, got {answers!r}"
            )
        yield str(row.get("id", row.get("_id", number))), row


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in _lines(path):
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInputError(f"{path}, line {number}: not JSON: {error.msg}") from error


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Grades of documents by query id, one a line after a header.

    Raises:
        InvalidInputError: A line is none.
    """
    found: dict[str, dict[str, int]] = {}
    for number, line in list(_lines(path))[1:]:
        try:
            query, document, grade = line.split("\t")
            found.setdefault(query, {})[document] = int(grade)
        except ValueError:
            raise InvalidInputError(
                f"{path}, line {number}: expected query id, document id and a whole number, tab-separated"
            ) from None
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: not UTF-8 (byte {error.start})") from error
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut at U+2028 inside a text
        if line.strip():
            yield number, line
