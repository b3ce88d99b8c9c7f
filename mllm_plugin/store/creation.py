"""Making the file, copying it, and looking at one before it is trusted."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import apsw

from mllm_plugin.errors import DamagedStoreError, FormatVersionError
from mllm_plugin.store.connections import (
    CREATE,
    READ_WRITE,
    check_size,
    close,
    connect,
    damaged,
    is_damage,
    making,
)
from mllm_plugin.store.filesystem import draft_folder, put, sync
from mllm_plugin.store.schema import (
    APPLICATION_ID,
    CHECKSUM_BYTES,
    FORMAT_VERSION,
    PAGE_SIZE,
    migrate,
    readable,
    schema_problems,
)


def create_file(path: Path, vfs: str, timeout: float) -> None:
    """Makes an empty memory's file, complete and on the disk before it has its name.

    Where another process makes one first, that one stays.
    """
    with making(path, timeout):
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft_folder(path) as folder:
            draft = folder / path.name
            connection = connect(draft, CREATE, vfs, timeout)
            try:
                prepare(connection)
                migrate(connection)
                connection.pragma("journal_mode", "wal")
            finally:
                close(connection)
            _check_copy(draft, vfs, timeout)
            with suppress(FileExistsError):  # another process was first
                put(draft, path)
        sync(path.parent)
        sync(path.parent.parent)


def copy_file(source: apsw.Connection, target: Path, vfs: str, timeout: float) -> None:
    """Copies a snapshot, page by page, into a new file: complete, checked and on the disk, or not there.

    Args:
        source: Connection in a read transaction.
        target: A file that is not there yet.
        vfs: Name of a VFS that scrubs, see `store.scrub`.
        timeout: Seconds to wait for locks.
    """
    with making(target, timeout), draft_folder(target) as folder:
        draft = folder / target.name
        destination = connect(draft, CREATE, vfs, timeout)
        try:
            prepare(destination)
            # page checksums are computed from the first page on, and a long copy writes others before it
            destination.execute("CREATE TABLE first_page (x)")
            _copy_pages(source, destination)
            destination.pragma("journal_mode", "delete")
        finally:
            close(destination)
        _check_copy(draft, vfs, timeout)
        put(draft, target)
    sync(target.parent)


def _copy_pages(source: apsw.Connection, destination: apsw.Connection) -> None:
    try:
        with destination.backup("main", source, "main") as copy:
            copy.step()
    except apsw.Error as error:
        if is_damage(error):  # of what is read; the copy is being written
            raise damaged(Path(source.filename), error) from error
        raise


def prepare(connection: apsw.Connection) -> None:
    """What is set before the first table or never."""
    connection.reserve_bytes("main", CHECKSUM_BYTES)
    connection.pragma("page_size", PAGE_SIZE)
    connection.pragma("auto_vacuum", 2)
    connection.pragma("journal_mode", "memory")  # nothing to roll back: until it is linked it is nothing


def _check_copy(path: Path, vfs: str, timeout: float) -> None:
    """Reads back what was written, and waits until the disk has it."""
    sync(path)
    connection = connect(path, READ_WRITE, vfs, timeout)
    try:
        found = connection.pragma("quick_check")
        check_size(connection, path)
    finally:
        close(connection)
    if found != "ok":
        raise damaged(path, f"what was written is not what is read: {found}")


def check_file(connection: apsw.Connection, path: Path, *, read_only: bool) -> bool:
    """Raises when a file is no memory that this release can use.

    Returns:
        Whether it has to be migrated before it is used.

    Raises:
        DamagedStoreError: It is none, or its schema is not the one that this package makes.
        FormatVersionError: It is of a newer release; or of an older one and must not be written.
    """
    application, version = connection.pragma("application_id"), connection.pragma("user_version")
    if application != APPLICATION_ID or version < 1:
        raise DamagedStoreError(f"{path} is not a memory of this package, or its first page is damaged")
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{path} has format version {version}, this release reads up to {FORMAT_VERSION}; "
            f"upgrade mllm-plugin"
        )
    if version < FORMAT_VERSION and not (read_only and readable(version)):
        if read_only:
            raise FormatVersionError(
                f"{path} has format version {version}, this release reads {FORMAT_VERSION}; open it once for "
                f"writing, which brings it to that version"
            )
        return True
    if problems := schema_problems(connection):
        raise DamagedStoreError(
            f"the schema of {path} was changed: {'; '.join(problems)}. No release of this package does that; "
            f"`mllm repair` makes a new memory of its documents"
        )
    return False
