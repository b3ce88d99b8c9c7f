"""PDF to text by pypdf: pages in order, a blank line between them; a page that cannot be read is named."""

from __future__ import annotations

import io
from typing import Any

from mllm_plugin.errors import InvalidDocumentError, MissingDependencyError
from mllm_plugin.extras import needs
from mllm_plugin.readers.extract import Extract

_SHOWN = 20


def pdf_text(data: bytes) -> Extract:
    """Returns the text layer of a PDF; its notes name the pages that are lost or are pictures.

    Raises:
        InvalidDocumentError: It is damaged, needs a password or is a scan without text.
        MissingDependencyError: pypdf, or what it needs for this PDF, is not installed.
    """
    with needs("readers", "PDF"):
        import pypdf
        from pypdf.errors import DependencyError
    try:
        reader: Any = pypdf.PdfReader(io.BytesIO(data))
        texts = [_page_text(page) for page in _pages(reader)]
        promised = reader.root_object["/Pages"].get("/Count")
    except InvalidDocumentError:
        raise
    except DependencyError as error:
        raise MissingDependencyError(
            f"this PDF is encrypted ({error}): pip install 'mllm-plugin[readers]'"
        ) from error
    except Exception as error:  # a damaged PDF fails in whatever place its damage lies
        raise _damaged(error) from error
    return _joined(texts, promised)


def _pages(reader: Any) -> list[Any]:
    if reader.is_encrypted and not reader.decrypt(""):
        raise InvalidDocumentError("the PDF needs a password; save a copy without one")
    return list(reader.pages)


def _page_text(page: Any) -> str | Exception:
    try:
        return _storable(page.extract_text())
    except Exception as error:
        return error


def _joined(pages: list[str | Exception], promised: Any) -> Extract:
    lost = {number: page for number, page in enumerate(pages, 1) if isinstance(page, Exception)}
    blank = [number for number, page in enumerate(pages, 1) if isinstance(page, str) and not page.strip()]
    texts = [page for page in pages if isinstance(page, str)]
    if lost and len(lost) + len(blank) == len(pages):
        raise _damaged(next(iter(lost.values())))
    if len(blank) == len(pages):
        raise InvalidDocumentError("no text in it (a scanned PDF needs text recognition first)")
    notes = [f"lost {_named(list(lost))} of {len(pages)}: damaged"] if lost else []
    notes += [f"no text on {_named(blank)} of {len(pages)}: blank, scanned or damaged"] if blank else []
    if isinstance(promised, int) and promised > len(pages):
        notes.append(f"only {len(pages)} of {promised} pages are there: damaged")
    return Extract("\n\n".join(texts), tuple(notes))


def _named(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    rest = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"{'page' if len(numbers) == 1 else 'pages'} {shown}{rest}"


def _damaged(error: Exception) -> InvalidDocumentError:
    return InvalidDocumentError(f"damaged PDF ({type(error).__name__}: {error})")


def _storable(text: str) -> str:
    """Without NUL; lone surrogates, which broken fonts yield, become replacement characters."""
    text = text.replace("\0", "")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
