"""Bytes to text, without guessing: byte order mark, UTF-8, then the encoding that the user named."""

from __future__ import annotations

import codecs
import re

from mllm_plugin.errors import InvalidDocumentError
from mllm_plugin.readers.extract import Extract

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEVEN_BIT = ("iso2022", "hz", "utf-7")  # their bytes are valid UTF-8 and mean something else
_EMBEDDED = re.compile(r"(data:[\w.+-]+/[\w.+-]+(?:;[\w.+-]+=[\w.+-]+)*;base64,)[A-Za-z0-9+/=_%-]{64,}")


def decode_text(data: bytes, encoding: str | None = None) -> Extract:
    """Decodes a text file; line ends stay as they are, so offsets refer to the file.

    Args:
        data: The file.
        encoding: Of files that carry no byte order mark and are not UTF-8.

    Raises:
        InvalidDocumentError: Binary data, or bytes that neither encoding allows.
    """
    if mark := mark_of(data):
        return Extract(_strictly(data, mark))
    if text := _seven_bit(data, encoding):
        return Extract(text, encoding=None if data.isascii() and text == data.decode() else encoding)
    try:
        return Extract(_strictly(data, "utf-8"))
    except InvalidDocumentError:
        if encoding is None:
            raise
    return Extract(_strictly(data, encoding), encoding=encoding)


def mark_of(data: bytes) -> str | None:
    """The encoding that a byte order mark names."""
    return next((name for mark, name in _MARKS if data.startswith(mark)), None)


def without_images(found: Extract) -> Extract:
    """Takes out what is embedded in base64, such as the images of Markdown; a text has no use for it."""
    text, count = _EMBEDDED.subn(r"\1…", found.text)
    if not count:
        return found
    note = f"{count} embedded {'file' if count == 1 else 'files'} (base64) left out of the text"
    return Extract(text, (*found.notes, note), found.encoding)


def _strictly(data: bytes, encoding: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if (position := data.find(b"\0")) >= 0:
            raise InvalidDocumentError(f"binary file (NUL byte at {position})") from error
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidDocumentError(
            f"not {encoding} at byte {error.start} (line {line}); name its encoding with --encoding"
        ) from error
    if (position := text.find("\0")) >= 0:
        raise InvalidDocumentError(f"binary file (NUL character at {position})")
    return text


def _seven_bit(data: bytes, encoding: str | None) -> str | None:
    if encoding is None or not encoding.startswith(_SEVEN_BIT):
        return None
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None
