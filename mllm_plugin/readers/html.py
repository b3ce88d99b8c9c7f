"""HTML to text: the title and what a reader sees, one line per block, `pre` as it is.

The page is parsed as the HTML standard says by resiliparse (lexbor), since every shorter way loses text where
tags are left out. Whatever is no text-level element of the standard ends a line, unknown elements too, so
that no list of blocks has to be complete for words to stay apart.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

from mllm_plugin.errors import InvalidDocumentError
from mllm_plugin.extras import needs
from mllm_plugin.readers.extract import Extract
from mllm_plugin.readers.text import decode_text, mark_of


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_INLINE = _names(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd mark nobr q rb rp rt rtc ruby s "
    "samp small span strike strong sub sup time tt u var wbr #comment"
)
_SPACED = _names(
    "td th button img input label math mfrac mi mn mo mrow ms msqrt mstyle msub msubsup msup mtext"
)
_PARAGRAPHS = _names(
    "article blockquote dl figure h1 h2 h3 h4 h5 h6 ol p pre section table ul textarea listing xmp"
)
_VERBATIM = _names("pre textarea listing xmp plaintext")
_UNSEEN = _names("head script style template svg iframe noembed")
_CODECS = {
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "utf-16-le": "utf-8",
}
_HEAD = 4096  # bytes in which a page declares its encoding
_DECLARED = re.compile(
    rb"""(?i)<(?:meta\b[^>]*?\bcharset|\?xml\b[^>]*?\bencoding)\s*=\s*["']?\s*([\w.:-]+)"""
)
_BEARABLE = 20  # one lost character in so many beyond ASCII
_SPARSE = 1000  # bytes of a page for a character of text that make it doubtful
_STRENGTH = {"": 0, " ": 1, "\n": 2, "\n\n": 3}
_XML = re.compile(r"(?i)\s*<\?xml|<html[^>]*\sxmlns\s*=")
_EMPTY_TAG = re.compile(r"<(?!br\b)([A-Za-z][\w:.-]*)([^<>]*)/>")


def html_text(data: bytes, encoding: str | None = None) -> Extract:
    """Returns the title and the visible text.

    Args:
        data: The page, in the encoding of its byte order mark, the one that it declares itself, or UTF-8.
        encoding: Of pages that are none of these.

    Raises:
        InvalidDocumentError: Binary data, or an encoding that nothing names.
        MissingDependencyError: resiliparse is not installed.
    """
    if b"\0" in data and not mark_of(data):
        raise InvalidDocumentError(f"binary file (NUL byte at {data.index(0)})")
    found = _decoded(data, encoding)
    text, notes = markup_text(found.text), found.notes
    if len(text) * _SPARSE < len(data):
        notes = (
            *notes,
            f"{len(text):,} characters of text in {len(data):,} bytes; scripts may make the rest",
        )
    return Extract(text, notes, found.encoding)


def markup_text(markup: str) -> str:
    """Returns the title and the visible text of a decoded page."""
    tree = _resiliparse().html.HTMLTree.parse(
        _EMPTY_TAG.sub(r"<\1\2></\1>", markup) if _XML.search(markup[:_HEAD]) else markup
    )
    title, lines = tree.title or "", _Lines()
    _write(tree.document, lines)
    body = lines.text()
    if not body and "<" in title:  # a title that is never closed takes in the whole page
        title, _, rest = title.partition("<")
        body = markup_text(f"<{rest}")
    title = " ".join(title.split())
    return f"{title}\n\n{body}".rstrip() if not body.startswith(title) else body


class _Lines:
    """Text as it grows: blanks run together, breaks never more than one blank line."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._pending = ""

    def write(self, text: str, verbatim: bool) -> None:
        words = text.replace("\u00a0", " ") if verbatim else re.sub(r"\s+", " ", text)
        if not verbatim and words.startswith(" "):
            self.end(" ")
            words = words[1:]
        if words:
            self._flush()
            self._parts.append(words)
        if not verbatim and words.endswith(" "):
            self._parts[-1] = words[:-1]
            self.end(" ")

    def end(self, mark: str) -> None:
        """Asks for a blank, a line end or a blank line before the next text; the longest counts."""
        self._pending = max(self._pending, mark, key=_STRENGTH.__getitem__)

    def _flush(self) -> None:
        if self._pending.startswith("\n"):
            while self._parts and not self._parts[-1].strip():
                self._parts.pop()
            self._parts[-1:] = [last.rstrip() for last in self._parts[-1:]]
        if self._parts:
            self._parts.append(self._pending)
        self._pending = ""

    def text(self) -> str:
        return "".join(self._parts).lstrip("\n").rstrip()


def _write(node: Any, lines: _Lines) -> None:
    """Walks the tree once, without recursion: pages may nest as deeply as they like."""
    depth = verbatim = 0
    while True:
        tag = node.tag
        if tag == "#text":
            lines.write(node.value, verbatim > 0)
        else:
            lines.end(_break(tag))
        child = None if tag in _UNSEEN else node.first_child
        if child is not None:
            node, depth, verbatim = child, depth + 1, verbatim + (tag in _VERBATIM)
            continue
        while (following := node.next_sibling) is None:
            if not depth:
                return
            node, depth = node.parent_node, depth - 1
            verbatim -= node.tag in _VERBATIM
            lines.end(_break(node.tag))
        node = following


def _break(tag: str) -> str:
    if tag in _INLINE:
        return ""
    if tag in _SPACED:
        return " "
    return "\n\n" if tag in _PARAGRAPHS else "\n"


def _decoded(data: bytes, encoding: str | None) -> Extract:
    declared = _declared(data)
    if declared is None:
        return decode_text(data, encoding)
    try:
        return Extract(data.decode(declared))
    except UnicodeDecodeError:
        pass
    try:
        return decode_text(data, encoding)
    except InvalidDocumentError:
        return _mostly(data, declared)


def _mostly(data: bytes, declared: str) -> Extract:
    """A page with a few bytes that its encoding does not know, as browsers show it."""
    text = data.decode(declared, "replace")
    lost, beyond = text.count("\ufffd"), sum(not byte.isascii() for byte in text)
    if lost * _BEARABLE > beyond:
        raise InvalidDocumentError(f"declares {declared} and is not; name its encoding with --encoding")
    return Extract(text, (f"{lost} characters are not {declared} and are lost",))


def _declared(data: bytes) -> str | None:
    """Python's name of the encoding that the page declares; None if it says nothing or has a mark."""
    found = None if mark_of(data) else _DECLARED.search(re.sub(rb"(?s)<!--.*?-->", b"", data[:_HEAD]))
    if found is None:
        return None
    of_label = _resiliparse().encoding.map_encoding_to_html5
    label = found[1].decode()
    name = of_label(label, False)
    if name is None:
        try:
            name = codecs.lookup(label).name
        except LookupError:
            return None
        name = of_label(name, False) or name
    return _CODECS.get(name, name)


def _resiliparse() -> Any:
    with needs("readers", "HTML"):
        import resiliparse.parse.encoding  # pyright: ignore[reportMissingModuleSource]
        import resiliparse.parse.html
    return resiliparse.parse
