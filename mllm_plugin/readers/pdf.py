"""PDF to text by pypdf: pages in order, a blank line between them."""

from __future__ import annotations

import io

from mllm_plugin.errors import InvalidDocumentError, MissingDependencyError


def pdf_text(data: bytes) -> str:
    """Returns the text layer of a PDF.

    Raises:
        InvalidDocumentError: It is damaged or needs a password.
        MissingDependencyError: pypdf is not installed.
    """
    try:
        import pypdf
    except ImportError as error:
        raise MissingDependencyError("PDF needs pypdf: pip install pypdf") from error
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise InvalidDocumentError("the PDF needs a password; save a copy without one")
        text = "\n\n".join(page.extract_text() for page in reader.pages)
    except InvalidDocumentError:
        raise
    except Exception as error:  # a damaged PDF fails in whatever place its damage lies
        raise InvalidDocumentError(f"damaged PDF ({type(error).__name__}: {error})") from error
    return _storable(text)


def _storable(text: str) -> str:
    """Without NUL; lone surrogates, which broken fonts yield, become replacement characters."""
    text = text.replace("\0", "")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
