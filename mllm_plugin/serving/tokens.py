"""Bearer tokens: a file of their hashes, each with what it may do."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from mllm_plugin.errors import InvalidInputError, NotFoundError
from mllm_plugin.serving.access import MOST, Access

if sys.platform != "win32":
    import fcntl

_PREFIX = "mllm_"
_Key = Literal["app", "user", "agent", "session"]
_Name = Annotated[str, StringConstraints(min_length=1)]


class Token(BaseModel):
    """An entry of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Of whoever has it, for the log and the limits.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Hash of the token, which is kept nowhere.")
    scope: dict[_Key, _Name] = Field(description="What it is bound to; {} for the whole memory.")
    read_only: bool = Field(False, description="Whether it only reads.")
    most: int = Field(MOST, ge=1, description="Results that a call may ask for.")
    rate: int | None = Field(None, ge=1, description="Calls a minute; the server's when left out.")

    def access(self, server: Access) -> Access:
        """What a caller with it may do, on a server that allows no more than this."""
        read_only, most = self.read_only or server.read_only, min(self.most, server.most)
        scope = {str(key): name for key, name in self.scope.items()}
        return Access(scope, read_only, most, self.sha256)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: list[Token]


class Tokens:
    """The tokens of a file, which is read again when it changes: one taken out is refused from then on.

    Args:
        file: JSON, as `add_token` writes it.

    Raises:
        NotFoundError: There is no such file.
        InvalidInputError: It is no list of tokens.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, ...] = ()
        self._known: dict[str, Token] = {}
        self._look()

    def of(self, secret: str) -> Token | None:
        """The entry of a token; None when it is unknown."""
        self._look()
        return self._known.get(_hash(secret))  # looked up by its hash: timing tells nothing of the token

    def _look(self) -> None:
        try:
            about = self._file.stat()
        except OSError as error:
            raise NotFoundError(f"no tokens file at {self._file}; make one with `mllm token`") from error
        seen = (about.st_mtime_ns, about.st_size, about.st_ino)
        if seen != self._seen:
            self._known = {token.sha256: token for token in _read(self._file).tokens}
            self._seen = seen


def add_token(file: Path, name: str, scope: dict[str, str], **limits: object) -> str:
    """Makes a token, writes its hash into the file, and returns it: it is shown this once.

    Args:
        file: Made when it is not there, for its owner alone to read.
        name: Of whoever gets it.
        scope: What it is bound to.
        limits: Other fields of `Token`.

    Raises:
        InvalidInputError: The file is no list of tokens, or a field is wrong.
        NotFoundError: Its folder is not there.
    """
    secret = _PREFIX + secrets.token_urlsafe(32)
    fields: dict[str, object] = {"name": name, "sha256": _hash(secret), "scope": scope, **limits}
    try:
        token = Token.model_validate(fields)
    except ValidationError as error:
        raise InvalidInputError(f"not a token: {_first(error)}") from error
    with _alone_in(file.parent):
        known = _read(file).tokens if file.exists() else []
        shown = {"tokens": [one.model_dump(exclude_defaults=True) for one in (*known, token)]}
        _write(file, json.dumps(shown, indent=2, ensure_ascii=False))
    return secret


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One at a time adds to the files of a folder, of all threads and processes, or one entry would be lost.

    Windows has no locks of folders: there, run one `mllm token` at a time.

    Raises:
        NotFoundError: There is no such folder.
    """
    if sys.platform == "win32":
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise NotFoundError(f"no folder {folder} for the tokens file: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(file: Path, text: str) -> None:
    """Replaces a file whole, for its owner alone to read."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    handle = os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with open(handle, "w", encoding="utf-8") as written:
        written.write(text)
        written.flush()
        os.fsync(handle)
    beside.replace(file)


def _read(file: Path) -> _File:
    try:
        return _File.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise InvalidInputError(f"{file} is no tokens file: {_first(error)}; see docs/cli.md") from error


def _first(error: ValidationError) -> str:
    one = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, one['loc']))}: {one['msg']}"


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
