"""One file's text."""

from __future__ import annotations

from mllm_plugin.errors import InvalidDocumentError
from mllm_plugin.readers.extract import Extract
from mllm_plugin.readers.files import SourceFile
from mllm_plugin.readers.text import decode_text, without_images

MEGABYTE = 1 << 20


def read_file(file: SourceFile, *, encoding: str | None = None, max_bytes: int = 100 * MEGABYTE) -> Extract:
    """Reads a file as text.

    Args:
        file: What to read.
        encoding: Of files that are not UTF-8 and carry no byte order mark; HTML names its own.
        max_bytes: Larger files are refused, since a document is held in memory as a whole.

    Raises:
        InvalidDocumentError: It is empty, too large, binary, damaged or not in the encoding.
        MissingDependencyError: The package that reads this kind of file is not installed.
        OSError: It may not be read.
    """
    data = _read_bytes(file, max_bytes)
    if not data.strip():
        raise InvalidDocumentError("no text in it: the file is empty")
    found = _extract(file, data, encoding)
    if not found.text.strip():
        raise InvalidDocumentError("no text in it")
    return found


def _extract(file: SourceFile, data: bytes, encoding: str | None) -> Extract:
    if file.kind == "pdf":
        from mllm_plugin.readers.pdf import pdf_text

        return pdf_text(data)
    if file.kind == "html":
        from mllm_plugin.readers.html import html_text

        return html_text(data, encoding)
    if file.kind == "docx":
        from mllm_plugin.readers.docx import docx_text

        return Extract(docx_text(data))
    if file.kind == "notebook":
        from mllm_plugin.readers.notebook import notebook_text

        return without_images(Extract(notebook_text(decode_text(data, "utf-8").text)))
    return without_images(decode_text(data, encoding))


def _read_bytes(file: SourceFile, max_bytes: int) -> bytes:
    with file.path.open("rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InvalidDocumentError(f"larger than {max_bytes / MEGABYTE:g} MB; split it or raise --max-mb")
    return data
