"""What tests read from a memory's file, or write there, by themselves: past every call of the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw

from mllm_plugin import MemoryIndex
from mllm_plugin.store.database import FILE_NAME, Database


def rows(memory: MemoryIndex | Path, query: str, parameters: tuple = ()) -> list[tuple]:
    """Rows of an SQL query."""
    folder = memory.path if isinstance(memory, MemoryIndex) else memory
    with closing(apsw.Connection(str(folder / FILE_NAME))) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        return list(connection.execute(query, parameters))


def value(memory: MemoryIndex | Path, query: str, parameters: tuple = ()):
    """The only value of the only row of an SQL query."""
    ((found,),) = rows(memory, query, parameters)
    return found


@contextmanager
def changing(memory: MemoryIndex | Path) -> Iterator[apsw.Connection]:
    """A write transaction as another process would have it: writers wait until the block ends."""
    folder = memory.path if isinstance(memory, MemoryIndex) else memory
    with closing(Database(folder)) as database, database.write() as tx:
        yield tx


def own_database(memory: MemoryIndex) -> Database:
    """What a memory reads and writes through, for faults in the middle of a call."""
    return memory._handle.database
