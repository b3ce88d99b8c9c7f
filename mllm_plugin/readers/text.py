"""Bytes to text, without guessing: byte order mark, the encoding named by the user, else UTF-8."""

from __future__ import annotations

import codecs

from mllm_plugin.errors import InvalidDocumentError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode_text(data: bytes, encoding: str | None = None) -> str:
    """Decodes a text file; line ends stay as they are, so offsets refer to the file.

    Raises:
        InvalidDocumentError: Binary data, or bytes that the encoding does not allow.
    """
    chosen = next((name for mark, name in _MARKS if data.startswith(mark)), encoding or "utf-8")
    try:
        text = data.decode(chosen)
    except UnicodeDecodeError as error:
        if (position := data.find(b"\0")) >= 0:
            raise InvalidDocumentError(f"binary file (NUL byte at {position})") from error
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidDocumentError(
            f"not {chosen} at byte {error.start} (line {line}); name its encoding with --encoding"
        ) from error
    if (position := text.find("\0")) >= 0:
        raise InvalidDocumentError(f"binary file (NUL character at {position})")
    return text
