"""Files to documents: text, Markdown, reStructuredText, HTML and PDF.

Markdown and reStructuredText are kept as they are written: an encoder reads their light markup well, and so
the character offsets of a hit are offsets into the file (after its byte order mark, if it has one). HTML and
PDF are turned into text by beautifulsoup4 and pypdf, which are imported when the first such file is met.
"""

from mllm_plugin.readers.files import SourceFile, find_files
from mllm_plugin.readers.read import read_text

__all__ = ["SourceFile", "find_files", "read_text"]
