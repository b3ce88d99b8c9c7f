"""Files to text: prose, data, source code, notebooks, HTML, PDF and Word documents.

Text is kept as it is written: an encoder reads the light markup of Markdown well, and so the character
offsets of a hit are offsets into the file (after its byte order mark, where nothing is embedded in base64).
HTML, PDF and Word documents are turned into text by resiliparse, pypdf and mammoth, which are imported when
the first such file is met.
"""

from mllm_plugin.readers.extract import Extract
from mllm_plugin.readers.files import FileFinder, SourceFile
from mllm_plugin.readers.read import read_file

__all__ = ["Extract", "FileFinder", "SourceFile", "read_file"]
