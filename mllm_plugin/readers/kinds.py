"""Which reader reads which file, and what to do with files that none reads."""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

Kind = Literal["text", "markdown", "restructuredtext", "data", "code", "html", "pdf", "docx", "notebook"]

# Raise a number when the reader reads the same file differently: such files are then read again.
READER_VERSIONS: dict[Kind, int] = {
    "text": 2,
    "markdown": 2,
    "restructuredtext": 2,
    "data": 1,
    "code": 1,
    "html": 2,
    "pdf": 2,
    "docx": 1,
    "notebook": 1,
}
_ENDINGS: dict[Kind, str] = {
    "text": ".txt .text .adoc .asciidoc .org .tex",
    "markdown": ".md .markdown .mdx",
    "restructuredtext": ".rst",
    "data": ".csv .tsv .json .jsonl .ndjson .yaml .yml .toml .ini .cfg .xml",
    "code": ".py .pyi .js .jsx .ts .tsx .java .kt .scala .c .h .cc .cpp .hpp .cs .go .rs .rb .php .swift "
    ".lua .pl .r .jl .sh .bash .ps1 .sql",
    "html": ".html .htm .xhtml",
    "pdf": ".pdf",
    "docx": ".docx",
    "notebook": ".ipynb",
}
_KINDS: dict[str, Kind] = {ending: kind for kind, endings in _ENDINGS.items() for ending in endings.split()}
_ADVICE = {
    ".doc .odt .rtf .pages .wpd": "save it as .docx",
    ".xls .xlsx .xlsm .ods .numbers .parquet .feather": "save it as .csv",
    ".ppt .pptx .odp .key .ps .djvu": "save it as .pdf",
    ".epub .mobi .azw3 .chm": "save it as .html",
    ".msg .eml .mbox": "save it as .txt",
    ".png .jpg .jpeg .gif .bmp .tif .tiff .webp .heic .ico": "a picture needs text recognition first",
    ".mp3 .wav .ogg .flac .m4a .mp4 .mkv .mov .avi .webm": "sound and film need a transcript first",
    ".zip .tar .gz .tgz .bz2 .xz .7z .rar .zst": "unpack it",
}
_ADVICE_OF = {ending: advice for endings, advice in _ADVICE.items() for ending in endings.split()}


def kind_of(path: PurePath) -> Kind | None:
    """The kind of a file by its ending; None if no reader knows it."""
    return _KINDS.get(path.suffix.lower())


def no_reader(path: PurePath) -> str:
    """Says that no reader knows the file, and what would read it."""
    ending = path.suffix.lower()
    name = f"*{path.suffix}" if ending else path.name
    advice = _ADVICE_OF.get(ending, f"--glob '{name}' reads it as text")
    return f"no reader for {ending or 'files without an ending'}; {advice}"
