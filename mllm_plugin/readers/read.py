"""One file's text."""

from __future__ import annotations

from mllm_plugin.errors import InvalidDocumentError
from mllm_plugin.readers.files import SourceFile
from mllm_plugin.readers.text import decode_text

MEGABYTE = 1 << 20


def read_text(file: SourceFile, *, encoding: str | None = None, max_bytes: int = 100 * MEGABYTE) -> str:
    """Reads a file as text.

    Args:
        file: What to read.
        encoding: Of files that are not UTF-8 and carry no byte order mark; HTML names its own.
        max_bytes: Larger files are refused, since a document is held in memory as a whole.

    Raises:
        InvalidDocumentError: It is empty, too large, binary, damaged or not in the encoding.
        MissingDependencyError: The package that reads this kind of file is not installed.
    """
    try:
        data = _read_bytes(file, max_bytes)
    except OSError as error:
        raise InvalidDocumentError(f"cannot be read: {error.strerror or error}") from error
    if file.kind == "pdf":
        from mllm_plugin.readers.pdf import pdf_text

        text = pdf_text(data)
    elif file.kind == "html":
        from mllm_plugin.readers.html import html_text

        text = html_text(data, encoding)
    else:
        text = decode_text(data, encoding)
    if not text.strip():
        scanned = " (a scanned PDF needs text recognition first)" if file.kind == "pdf" and data else ""
        raise InvalidDocumentError(f"no text in it{scanned}")
    return text


def _read_bytes(file: SourceFile, max_bytes: int) -> bytes:
    with file.path.open("rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InvalidDocumentError(f"larger than {max_bytes / MEGABYTE:g} MB; split it or raise --max-mb")
    return data
