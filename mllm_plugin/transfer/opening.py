"""What a path holds that can be imported; clients of other products are loaded when they are needed."""

from __future__ import annotations

from pathlib import Path

from mllm_plugin.errors import InvalidInputError, NotFoundError
from mllm_plugin.transfer.source import Columns, Source


def open_source(path: Path, columns: Columns = Columns()) -> Source:
    """Opens a JSON lines file, a Chroma folder or a LanceDB folder.

    Raises:
        NotFoundError: There is nothing at the path, or no such collection or column.
        InvalidInputError: It is neither of these, or the choice is ambiguous.
        MissingDependencyError: Its client library is not installed.
    """
    if not path.exists():
        raise NotFoundError(f"no file or folder {path}; check the path")
    if not path.is_dir():
        from mllm_plugin.transfer.jsonl import read_jsonl

        return Source(read_jsonl(path)).peek()
    if (path / "chroma.sqlite3").is_file():
        from mllm_plugin.transfer.chroma import read_chroma

        return read_chroma(path, columns).peek()
    if any(path.glob("*.lance")):
        from mllm_plugin.transfer.lance import read_lance

        return read_lance(path, columns).peek()
    raise InvalidInputError(
        f"{path} holds neither a Chroma database (chroma.sqlite3) nor LanceDB tables (*.lance); to read "
        f"documents from a folder use: mllm index {path}"
    )
