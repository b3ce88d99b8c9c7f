from __future__ import annotations

import io
import json
import re
import sys
import time
from pathlib import Path

import pypdf
import pytest

from mllm_plugin.errors import InvalidDocumentError, MissingDependencyError, NotFoundError
from mllm_plugin.lexical import terms_of
from mllm_plugin.readers import FileFinder, SourceFile, read_file
from mllm_plugin.readers.docx import docx_text
from mllm_plugin.readers.html import html_text, markup_text
from mllm_plugin.readers.notebook import notebook_text
from mllm_plugin.readers.pdf import pdf_text
from mllm_plugin.readers.text import decode_text, without_images
from tests.helpers.small_files import small_docx, small_pdf


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
    assert decode_text(data).text == "Füße"


def test_text_keeps_line_ends_so_that_offsets_refer_to_the_file() -> None:
    assert decode_text(b"a\r\nb\rc\n").text == "a\r\nb\rc\n"


@pytest.mark.parametrize("named", ["iso8859-1", "cp1251", "utf-16-le", "iso2022_jp", "hz", "utf-7", "cp037"])
@pytest.mark.parametrize("text", ["Füße, 日本", "plain words"])
def test_text_that_is_utf_8_is_read_so_whatever_encoding_is_named(named: str, text: str) -> None:
    found = decode_text(text.encode(), named)
    assert (found.text, found.encoding) == (text, None)


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ("iso8859-1", "Füße"),
        ("cp1251", "Привет"),
        ("utf-16-le", "Füße"),
        ("shift_jis", "日本"),
        ("iso2022_jp", "日本"),
        ("hz", "中文"),
    ],
)
def test_text_that_is_not_utf_8_is_read_in_the_named_encoding(named: str, text: str) -> None:
    found = decode_text(text.encode(named), named)
    assert (found.text, found.encoding) == (text, named)


@pytest.mark.parametrize(
    "text",
    [
        "![a heron](data:image/png;base64,{})",
        "[heron]: data:image/svg+xml;charset=utf-8;base64,{}\n",
        '<img src="data:image/png;base64,{}">',
    ],
    ids=["image", "reference", "tag"],
)
def test_embedded_images_are_taken_out_and_counted(text: str) -> None:
    found = without_images(decode_text(f"Before. {text.format('iVBORw0KGgo/+' * 20)} After.".encode()))
    assert found.text == f"Before. {text.format('…')} After."
    assert found.notes == ("1 embedded file (base64) left out of the text",)
    assert without_images(decode_text(b"data:text/plain;base64,SGk=")).notes == ()


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
    text = html_text(page).text
    assert text.splitlines()[0] == "Birds & fish"
    assert "They eat fish.\nSlowly." in text
    assert "def f():\n    return 1" in text
    assert "a b" in text
    assert not any(word in text for word in ("bad()", "hidden", "p {}", "<"))


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<!doctype html><head><title>Tides</title><body><p>High water.", "Tides\n\nHigh water."),
        (
            "<!doctype html><title>Tides</title><p>High water.<p>Low water.",
            "Tides\n\nHigh water.\n\nLow water.",
        ),
        ("<title>Tides<body><p>High water.", "Tides\n\nHigh water."),
        ("<p>High<noscript>Enable<p>water.", "High\nEnable\n\nwater."),
        ("<head><noscript><style>x{}</style></head><p>High water.", "High water."),
        ("<svg><title>icon</title></svg><p>High water.", "High water."),
        ("<title>Tides</title><svg><title>icon</title></svg><p>High.", "Tides\n\nHigh."),
        ("<html><body>High</body></html>water<p>comes", "Highwater\n\ncomes"),
        ("<?xml version='1.0'?><html><head><title/><script src='x'/></head><p>High.</p></html>", "High."),
        ("<p>5 &lt; 6 &amp;amp; &eacute;<p>a<!-- no -->b", "5 < 6 &amp; é\n\nab"),
        ("<template><p>no</p></template><script>no()</script><p>High.", "High."),
        ("<frameset><noframes>High water</noframes></frameset>", "High water"),
    ],
)
def test_html_with_tags_left_out_loses_nothing(page: str, text: str) -> None:
    assert markup_text(page) == text


def test_html_with_hardly_any_text_says_so() -> None:
    page = b"<title>Tides</title><script>" + b"x" * 10_000 + b"</script>"
    assert html_text(page).notes == ("5 characters of text in 10,037 bytes; scripts may make the rest",)
    assert html_text(page + b"High water at nine.").notes == ()


BLOCKS = (
    "address article aside blockquote button center dd details dialog dir div dl dt fieldset figcaption "
    "figure footer form h1 h6 header hgroup label legend li main menu nav ol optgroup option output p pre "
    "search section select summary textarea ul my-card unknown"
)


@pytest.mark.parametrize("tag", BLOCKS.split())
def test_html_keeps_words_of_blocks_apart(tag: str) -> None:
    page = f"<div>zero<{tag}>one</{tag}><{tag}>two</{tag}>three</div>"
    assert markup_text(page).split() == ["zero", "one", "two", "three"]


def test_html_keeps_inline_words_together() -> None:
    assert markup_text("f<i>i</i><b>s</b>h H<sub>2</sub>O don<wbr>au") == "fish H2O donau"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<pre>\n  def f():\n\n\n      return  1\n</pre>after", "  def f():\n\n\n      return  1\n\nafter"),
        ("<p>x</p><pre><code><span>  a</span>\n   <span>b</span></code></pre>", "x\n\n  a\n   b"),
        ("<table><tr><td>a<td>b<tr><td>c<td>d</table>", "a b\nc d"),
        ("<textarea>a  b\n c</textarea>", "a  b\n c"),
    ],
)
def test_html_keeps_blanks_where_they_count(page: str, text: str) -> None:
    assert markup_text(page) == text


@pytest.mark.parametrize(
    "part", ["<p>Paragraph <b>x</b></p>", "<div>", "<b>", "<table><tr><td>", "<ul><li>x", "<pre> </pre>"]
)
def test_html_is_read_in_linear_time(part: str) -> None:
    def seconds(count: int) -> float:
        started = time.process_time()
        assert "the end" in markup_text(part * count + "the end")
        return time.process_time() - started

    assert seconds(8_000) < 10 * max(seconds(2_000), 0.02)  # four times; sixteen in quadratic time


@pytest.mark.parametrize(
    ("data", "named", "text"),
    [
        ('<meta charset="iso-8859-1">Füße'.encode("latin-1"), None, "Füße"),
        ('<meta charset="iso-8859-1">Füße'.encode("latin-1"), "cp1251", "Füße"),
        ("<meta charset=latin1>“Füße”".encode("cp1252"), None, "“Füße”"),
        (
            '<meta http-equiv="Content-Type" content="text/html; charset=x-sjis">①日本'.encode("cp932"),
            None,
            "①日本",
        ),
        ("<meta charset=gb2312>中文".encode("gbk"), None, "中文"),
        ("<meta charset=iso-2022-jp>日本".encode("iso2022_jp"), None, "日本"),
        ('<?xml version="1.0" encoding="koi8-r"?><p>Привет</p>'.encode("koi8-r"), None, "Привет"),
        ("<meta charset=utf-16>Füße".encode(), None, "Füße"),
        ("<meta charset=klingon>Füße".encode(), None, "Füße"),
        ("<meta charset=utf-8>Füße".encode("latin-1"), "latin-1", "Füße"),
        ("<!-- <meta charset=koi8-r> -->Füße".encode(), None, "Füße"),
        ("<p>Füße".encode(), "latin-1", "Füße"),
        ("<p>Füße".encode("latin-1"), "latin-1", "Füße"),
        ("<meta charset=latin1>Füße".encode("utf-16"), None, "Füße"),
        ("<meta charset=latin1>Füße".encode("utf-8-sig"), None, "Füße"),
    ],
)
def test_html_is_read_by_its_mark_its_own_charset_utf_8_and_then_the_named_encoding(
    data, named, text
) -> None:
    assert html_text(data, named).text == text


def test_html_in_an_unknown_encoding_is_refused_and_single_bad_bytes_are_counted() -> None:
    with pytest.raises(InvalidDocumentError, match="name its encoding with --encoding"):
        html_text("<p>Füße".encode("latin-1"))
    with pytest.raises(InvalidDocumentError, match="declares utf-8 and is not; name its encoding"):
        html_text("<meta charset=utf-8><p>Füße".encode("latin-1"))
    found = html_text(b"<meta charset=gbk>" + "中文".encode("gbk") * 50 + b"\xff.")
    assert found.text.startswith("中文中文")
    assert found.notes == ("1 characters are not gb18030 and are lost",)


def test_html_that_is_binary_is_refused() -> None:
    with pytest.raises(InvalidDocumentError, match="binary file"):
        html_text(b"GIF89a\0\1\2")


def test_pdf_text() -> None:
    assert pdf_text(small_pdf("Herons eat fish")).text == "Herons eat fish"


def saved(writer: pypdf.PdfWriter) -> bytes:
    stream = io.BytesIO()
    writer.write(stream)
    return stream.getvalue()


def three_pages() -> pypdf.PdfWriter:
    writer = pypdf.PdfWriter()
    for text in ("one", "two", "three"):
        writer.append(io.BytesIO(small_pdf(text)))
    return writer


def test_pdf_with_a_bad_page_keeps_the_others_and_names_it() -> None:
    writer = three_pages()
    bad = pypdf.generic.StreamObject()
    bad[pypdf.generic.NameObject("/Filter")] = pypdf.generic.NameObject("/NoSuchFilter")
    bad._data = b"rubbish"
    writer.pages[1][pypdf.generic.NameObject("/Contents")] = writer._add_object(bad)
    found = pdf_text(saved(writer))
    assert found.text == "one\n\nthree"
    assert found.notes == ("lost page 2 of 3: damaged",)


def test_pdf_without_a_page_that_it_promises_says_so() -> None:
    data = saved(three_pages())
    kids = re.search(rb"/Kids \[ (\d+ 0 R) (\d+ 0 R)", data)
    assert kids is not None
    found = pdf_text(data.replace(kids[0], b"/Kids [ %s 999 0 R" % kids[1]))
    assert found.text == "one\n\nthree"
    assert found.notes == ("only 2 of 3 pages are there: damaged",)


def test_words_that_a_pdf_breaks_over_a_line_end_are_words() -> None:
    text = pdf_text(small_pdf("an exam-) Tj 0 -14 Td (ple of well-) Tj 0 -14 Td (known words")).text
    assert text.splitlines() == ["an exam-", "ple of well-", "known words"]
    assert {"example", "exam", "ple", "well", "known", "wellknown"} <= set(terms_of(text))


def test_pdf_with_pages_without_text_names_them_and_a_scan_is_refused() -> None:
    writer = three_pages()
    writer.add_blank_page(100, 100)
    assert pdf_text(saved(writer)).notes == ("no text on page 4 of 4: blank, scanned or damaged",)
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    with pytest.raises(InvalidDocumentError, match="scanned PDF needs text recognition"):
        pdf_text(saved(writer))


def test_pdf_with_aes_is_read_and_without_its_package_says_what_to_install(monkeypatch) -> None:
    writer = three_pages()
    writer.encrypt("", owner_password="secret", algorithm="AES-256")
    data = saved(writer)
    assert pdf_text(data).text == "one\n\ntwo\n\nthree"

    def without(*arguments: object) -> None:
        raise pypdf.errors.DependencyError("cryptography>=3.1 is required for AES algorithm")

    monkeypatch.setattr(pypdf.PdfReader, "decrypt", without)
    with pytest.raises(MissingDependencyError, match=r"encrypted.*mllm-plugin\[readers\]"):
        pdf_text(data)


@pytest.mark.parametrize(
    "data", [b"", b"rubbish", small_pdf("Herons")[:200]], ids=["empty", "no PDF", "cut short"]
)
def test_damaged_pdf_is_refused(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidDocumentError, match="damaged PDF"):
        pdf_text(data)


def test_pdf_with_a_password_is_refused() -> None:
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.encrypt("secret", algorithm="RC4-128")
    with pytest.raises(InvalidDocumentError, match="needs a password"):
        pdf_text(saved(writer))


def test_word_document() -> None:
    assert docx_text(small_docx()).split() == ["Herons", "eat", "fish.", "left", "right"]
    with pytest.raises(InvalidDocumentError, match="damaged"):
        docx_text(b"rubbish")


def test_notebook_gives_cells_and_what_they_printed() -> None:
    code = {
        "cell_type": "code",
        "source": "print(1)",
        "outputs": [
            {"output_type": "stream", "text": ["\x1b[31mloss\x1b[0m 0.5\n"]},
            {"output_type": "display_data", "data": {"image/png": "iVBOR", "text/plain": ["<Figure>"]}},
            {"output_type": "error", "ename": "E", "traceback": ["no"]},
        ],
    }
    cells = [{"cell_type": "markdown", "source": ["# Herons\n", "They fish."]}, code]
    expected = "# Herons\nThey fish.\n\nprint(1)\n\nloss 0.5\n\n\n<Figure>"
    assert notebook_text(json.dumps({"cells": cells})) == expected
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": "print(1)", "outputs": []}]}]}
    assert notebook_text(json.dumps(old)) == "print(1)"
    for rubbish in ("{", "[]", '{"cells": [1]}', '{"cells": [{"source": [1]}]}'):
        with pytest.raises(InvalidDocumentError, match="damaged notebook"):
            notebook_text(rubbish)


@pytest.mark.parametrize(
    ("package", "reader"),
    [("resiliparse", html_text), ("pypdf", pdf_text), ("mammoth", docx_text)],
    ids=["html", "pdf", "docx"],
)
def test_a_missing_reader_says_what_to_install(package, reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        reader(b"<meta charset=utf-8>")


def test_a_file_without_text_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b" \n")
    with pytest.raises(InvalidDocumentError, match="no text in it"):
        read_file(SourceFile(tmp_path, path, "text"))
    path.write_bytes(b"x" * 100)
    with pytest.raises(InvalidDocumentError, match="larger than"):
        read_file(SourceFile(tmp_path, path, "text"), max_bytes=99)


def tree(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("text")


def found(finder: FileFinder, path: Path) -> list[str]:
    return [file.document_id for file in finder.find(path)]


def test_files_are_found_in_order_and_what_is_left_out_is_named(tmp_path: Path) -> None:
    tree(tmp_path, "b.md", "a.TXT", "sub/c.html", "sub/.git/x.txt", ".hidden.txt", "memory/y.txt")
    tree(tmp_path, "data.bin", "report.xlsx", "README", "photo.JPG")
    (tmp_path / "nowhere.txt").symlink_to(tmp_path / "nothing.txt")
    (tmp_path / "folder").symlink_to(tmp_path / "sub")
    finder = FileFinder(leave_out=tmp_path / "memory")
    assert [(file.document_id, file.kind) for file in finder.find(tmp_path)] == [
        ("a.TXT", "text"),
        ("b.md", "markdown"),
        ("sub/c.html", "html"),
    ]
    assert finder.hidden == 2
    reasons = {path.name: reason for path, reason in finder.left_out}
    assert reasons == {
        "README": "no reader for files without an ending; --glob 'README' reads it as text",
        "data.bin": "no reader for .bin; --glob '*.bin' reads it as text",
        "folder": "a link to a folder; name that folder to index it",
        "nowhere.txt": "a link to nothing",
        "photo.JPG": "no reader for .jpg; a picture needs text recognition first",
        "report.xlsx": "no reader for .xlsx; save it as .csv",
    }
    assert found(FileFinder(patterns=["*.bin"]), tmp_path) == ["data.bin"]
    assert [file.kind for file in FileFinder().find(tmp_path / "data.bin")] == ["text"]


@pytest.mark.parametrize(
    "name",
    ["a.md", "a.txt", "a.csv", "a.json", "a.jsonl", "a.py", "a.ipynb", "a.html", "a.pdf", "a.docx", "a.rst"],
)
def test_common_files_have_a_reader(tmp_path: Path, name: str) -> None:
    tree(tmp_path, name)
    assert found(FileFinder(), tmp_path) == [name]


def test_gitignore_and_exclusions_leave_out_as_git_does(tmp_path: Path) -> None:
    tree(tmp_path, ".git/HEAD", "docs/a.md", "docs/b.md", "docs/keep.md", "docs/build/c.md", "docs/deep/a.md")
    tree(tmp_path, "docs/deep/b.md", "docs/drafts/d.md")
    (tmp_path / ".gitignore").write_text("build/\nb.md\n/docs/deep/a.md\n")
    (tmp_path / "docs/deep/.gitignore").write_text("!b.md\n")
    finder = FileFinder(exclude=["drafts/"])
    assert found(finder, tmp_path / "docs") == ["a.md", "keep.md", "deep/b.md"]
    assert finder.ignored == 4
    assert len(found(FileFinder(gitignore=False), tmp_path / "docs")) == 7
    assert found(FileFinder(exclude=["*.md", "!keep.md"]), tmp_path) == ["docs/keep.md"]
    assert found(FileFinder(), tmp_path / "docs/build") == ["c.md"]  # whoever names a folder wants it


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path: Path, monkeypatch) -> None:
    import os

    tree(tmp_path, "a/x.txt", "closed/y.txt", "z/z.txt")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    finder = FileFinder()
    assert found(finder, tmp_path) == ["a/x.txt", "z/z.txt"]
    assert finder.left_out == [(tmp_path / "closed", "the folder cannot be read: Permission denied")]


def test_find_files_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file or folder"):
        list(FileFinder().find(tmp_path / "nothing"))
