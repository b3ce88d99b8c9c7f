"""Word documents to text: mammoth turns them into HTML, which our reader of HTML turns into lines."""

from __future__ import annotations

import io

from mllm_plugin.errors import InvalidDocumentError
from mllm_plugin.extras import needs
from mllm_plugin.readers.html import markup_text


def docx_text(data: bytes) -> str:
    """Returns the text of a .docx file: paragraphs, lists, tables, footnotes.

    Raises:
        InvalidDocumentError: It is damaged or needs a password.
        MissingDependencyError: mammoth is not installed.
    """
    with needs("readers", "a Word document"):
        import mammoth
    try:
        page = mammoth.convert_to_html(io.BytesIO(data), convert_image=lambda image: []).value
    except Exception as error:  # a damaged file fails in whatever place its damage lies
        raise InvalidDocumentError(
            f"damaged, or a Word document with a password ({type(error).__name__}: {error})"
        ) from error
    return markup_text(page)
