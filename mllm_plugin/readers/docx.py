"""Word documents to text: mammoth turns them into HTML, which our reader of HTML turns into lines."""

from __future__ import annotations

import io

from mllm_plugin.errors import InvalidDocumentError, MissingDependencyError
from mllm_plugin.readers.html import markup_text


def docx_text(data: bytes) -> str:
    """Returns the text of a .docx file: paragraphs, lists, tables, footnotes.

    Raises:
        InvalidDocumentError: It is damaged or needs a password.
        MissingDependencyError: mammoth is not installed.
    """
    try:
        import mammoth
    except ImportError as error:
        raise MissingDependencyError(
            "Word documents need the package mammoth: pip install 'mllm-plugin[readers]'"
        ) from error
    try:
        page = mammoth.convert_to_html(io.BytesIO(data), convert_image=lambda image: []).value
    except Exception as error:  # a damaged file fails in whatever place its damage lies
        raise InvalidDocumentError(
            f"damaged, or a Word document with a password ({type(error).__name__}: {error})"
        ) from error
    return markup_text(page)
