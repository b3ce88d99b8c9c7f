"""HTML to text by beautifulsoup4: what a reader sees, one line per block, `pre` as it is."""

from __future__ import annotations

import codecs
import re
import warnings
from typing import Any

from mllm_plugin.errors import InvalidDocumentError, MissingDependencyError

_UNSEEN = ["head", "script", "style", "noscript", "template", "svg"]
_PARAGRAPHS = [
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "pre",
    "blockquote",
    "table",
    "ul",
    "ol",
    "dl",
    "section",
]
_LINES = [
    "div",
    "li",
    "dt",
    "dd",
    "tr",
    "br",
    "hr",
    "article",
    "header",
    "footer",
    "nav",
    "main",
    "figcaption",
]


def html_text(data: bytes, encoding: str | None = None) -> str:
    """Returns the title and the visible text.

    Args:
        data: The page; UTF-8 or in the encoding that it declares itself.
        encoding: Overrides what the page declares.

    Raises:
        InvalidDocumentError: Binary data.
        MissingDependencyError: beautifulsoup4 is not installed.
    """
    if b"\0" in data and not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InvalidDocumentError(f"binary file (NUL byte at {data.index(0)})")
    soup = _parsed(data, encoding)
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for tag in soup(_UNSEEN):
        tag.decompose()
    for string in soup.find_all(string=True):
        if string.find_parent("pre") is None:
            string.replace_with(type(string)(re.sub(r"\s+", " ", string)))
    for names, line_end in ((_PARAGRAPHS, "\n\n"), (_LINES, "\n")):
        for tag in soup(names):
            tag.insert_before(line_end)
            tag.insert_after(line_end)
    for cell in soup(["td", "th"]):
        cell.insert_before(" ")
    body = _tidy(soup.get_text())
    return f"{title}\n\n{body}" if title and not body.startswith(title) else body


def _parsed(data: bytes, encoding: str | None) -> Any:
    try:
        from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning
    except ImportError as error:
        raise MissingDependencyError("HTML needs beautifulsoup4: pip install beautifulsoup4") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        if encoding:
            return BeautifulSoup(data, "html.parser", from_encoding=encoding)
        try:
            return BeautifulSoup(data.decode("utf-8-sig"), "html.parser")
        except UnicodeDecodeError:
            return BeautifulSoup(data, "html.parser")


def _tidy(text: str) -> str:
    text = text.replace("\0", "").replace("\r\n", "\n").replace("\u00a0", " ")
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^ (?=\S)", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
