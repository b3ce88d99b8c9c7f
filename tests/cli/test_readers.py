from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mllm_plugin.errors import InvalidDocumentError, MissingDependencyError, NotFoundError
from mllm_plugin.readers import SourceFile, find_files, read_text
from mllm_plugin.readers.html import html_text
from mllm_plugin.readers.pdf import pdf_text
from mllm_plugin.readers.text import decode_text


def small_pdf(text: str) -> bytes:
    """A PDF of one page, written by hand."""
    stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode("latin-1")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    data, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return data + (
        b"xref\n0 5\n0000000000 65535 f \n%strailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
        % (table, len(data))
    )


@pytest.mark.parametrize(
    "data",
    [
        "Füße".encode(),
        "Füße".encode("utf-8-sig"),
        "Füße".encode("utf-16"),
        "Füße".encode("utf-32"),
    ],
    ids=["utf-8", "utf-8 with mark", "utf-16", "utf-32"],
)
def test_text_is_decoded_by_its_mark(data: bytes) -> None:
    assert decode_text(data) == "Füße"


def test_text_keeps_line_ends_so_that_offsets_refer_to_the_file() -> None:
    assert decode_text(b"a\r\nb\rc\n") == "a\r\nb\rc\n"


def test_text_in_a_named_encoding() -> None:
    assert decode_text("Füße".encode("latin-1"), "latin-1") == "Füße"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("ab\nFüße".encode("latin-1"), r"not utf-8 at byte 4 \(line 2\).*--encoding"),
        (b"abc\0def", r"binary file \(NUL character at 3\)"),
        (b"\x89PNG\0\xff", r"binary file \(NUL byte at 4\)"),
    ],
    ids=["latin-1", "NUL", "binary"],
)
def test_text_that_cannot_be_decoded_says_where(data: bytes, message: str) -> None:
    with pytest.raises(InvalidDocumentError, match=message):
        decode_text(data)


def test_html_gives_what_a_reader_sees() -> None:
    page = b"""<?xml version="1.0"?><html><head><title>Birds &amp; fish</title><style>p {}</style></head>
    <body><script>bad()</script><!-- hidden --><h1>Herons</h1>
    <p>They <b>eat</b> f<i>ish</i>.<br>Slowly.</p>
    <ul><li>one<li>two</ul><pre>def f():\n    return 1</pre>
    <table><tr><td>a</td><td>b</td></tr></table></body>"""
    text = html_text(page)
    assert text.splitlines()[0] == "Birds & fish"
    assert "They eat fish.\n\nSlowly." in text or "They eat fish.\nSlowly." in text
    assert "def f():\n    return 1" in text
    assert "a b" in text
    assert not any(word in text for word in ("bad()", "hidden", "p {}", "<"))


def test_html_in_the_encoding_that_it_declares() -> None:
    page = '<html><head><meta charset="iso-8859-1"></head><body>Füße</body>'.encode("latin-1")
    assert html_text(page) == "Füße"


def test_html_that_is_binary_is_refused() -> None:
    with pytest.raises(InvalidDocumentError, match="binary file"):
        html_text(b"GIF89a\0\1\2")


def test_pdf_text() -> None:
    assert pdf_text(small_pdf("Herons eat fish")) == "Herons eat fish"


@pytest.mark.parametrize(
    "data", [b"", b"rubbish", small_pdf("Herons")[:200]], ids=["empty", "no PDF", "cut short"]
)
def test_damaged_pdf_is_refused(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidDocumentError, match="damaged PDF"):
        pdf_text(data)


def test_pdf_with_a_password_is_refused() -> None:
    import io

    import pypdf

    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.encrypt("secret", algorithm="RC4-128")
    stream = io.BytesIO()
    writer.write(stream)
    with pytest.raises(InvalidDocumentError, match="needs a password"):
        pdf_text(stream.getvalue())


@pytest.mark.parametrize(
    ("package", "reader"), [("bs4", html_text), ("pypdf", pdf_text)], ids=["html", "pdf"]
)
def test_a_missing_reader_says_what_to_install(package, reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        reader(b"data")


def test_a_file_without_text_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b" \n")
    with pytest.raises(InvalidDocumentError, match="no text in it"):
        read_text(SourceFile(tmp_path, path, "text"))
    path.write_bytes(b"x" * 100)
    with pytest.raises(InvalidDocumentError, match="larger than"):
        read_text(SourceFile(tmp_path, path, "text"), max_bytes=99)


def test_find_files_walks_in_order_and_leaves_out_what_is_hidden_or_unknown(tmp_path: Path) -> None:
    for name in ("b.md", "a.TXT", "sub/c.html", "sub/.git/x.txt", ".hidden.txt", "data.bin", "memory/y.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    found = list(find_files(tmp_path, leave_out=tmp_path / "memory"))
    assert [(file.document_id, file.kind) for file in found] == [
        ("a.TXT", "text"),
        ("b.md", "markdown"),
        ("sub/c.html", "html"),
    ]
    assert [file.document_id for file in find_files(tmp_path, ["*.bin"])] == ["data.bin"]
    assert [file.kind for file in find_files(tmp_path / "data.bin")] == ["text"]


def test_find_files_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file or folder"):
        list(find_files(tmp_path / "nothing"))
