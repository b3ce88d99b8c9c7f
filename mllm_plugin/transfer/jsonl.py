"""JSON lines, gzipped when the name ends in .gz."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.transfer.records import Record, to_record

_LONGEST = 1 << 30  # bytes, so that one line does not take all memory; vectors make a line many times as long


def read_jsonl(path: Path, longest: int = _LONGEST) -> Iterator[Record]:
    """Reads a file line by line; blank lines are left out.

    Args:
        path: The file.
        longest: Bytes of a line that are read; a longer one is not held in memory.

    Raises:
        InvalidInputError: A line is too long, no JSON or no record; the message names it.
    """
    number = 0
    try:
        with _opened(path, "rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(longest + 1), b""), start=1):
                if len(line) > longest:
                    raise InvalidInputError(
                        f"{path}, line {number}: longer than {longest:,} bytes. A line holds one document: "
                        f"export it without vectors, or divide it"
                    )
                if line.strip():
                    where = f"{path}, line {number}"
                    yield to_record(_parsed(line, where), where)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInputError(f"{path} is no complete gzip file (after line {number}): {error}") from error


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Writes records, one a line; a regular file appears under its name only when it is complete.

    Returns:
        How many were written.
    """
    if path.exists() and not path.is_file():  # a pipe or a device
        with _opened(path, "wb") as stream:
            return _write(stream, records)
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file, _compressed(file, path) as stream:
            count = _write(stream, records)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _write(stream: IO[bytes], records: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    for record in records:
        stream.write(json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n")
        count += 1
    return count


def _parsed(line: bytes, where: str) -> Any:
    try:
        return json.loads(line, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{where}: not JSON (column {error.colno}: {error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{where}: not JSON ({error})") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value; write null or leave it out")


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[IO[bytes]]:
    with path.open(mode) as file, _compressed(file, path) as stream:  # type: ignore[arg-type]
        yield stream


@contextmanager
def _compressed(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if path.suffix != ".gz":
        yield file
        return
    with gzip.GzipFile(fileobj=file, mode=file.mode, filename="", mtime=0) as stream:
        yield stream  # type: ignore[misc]
