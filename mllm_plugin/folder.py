"""Tensors and JSON in a folder: written whole or not at all, and read with checks.

What is saved lies as NAME.safetensors and NAME.json beside whatever else the folder holds. Both files are
written and synced in `.NAME.saving`, which is then renamed to `.NAME.saved`: from this moment the new pair
counts. Then its files move to their places. Who reads looks into `.NAME.saved` first, so a process that is
killed at any moment leaves the old pair or the new one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mllm_plugin.errors import DiskFullError, InvalidInputError, NotFoundError, StoreError

Config = TypeVar("Config", bound=BaseModel)
_Tensor = TypeVar("_Tensor")  # of numpy or of torch
Shape = Sequence[int | str]

TENSORS, CONFIG = ".safetensors", ".json"
_SUM = "sha256"
_TRIES = 64  # reads that another process's save may spoil, one after another


# -- a pair of files, whole or not at all


def write_pair(folder: str | Path, name: str, *, tensors: bytes, config: str) -> None:
    """Writes NAME.safetensors and NAME.json; until both are there, what was there before stays.

    Args:
        folder: Made when it is not there. One process at a time may write a name in it.
        name: Of both files.
        tensors: What `packed` gave.
        config: JSON.

    Raises:
        DiskFullError: No space is left; what was there before is kept.
        StoreError: The folder cannot be written.
    """
    target = Path(folder)
    saving, saved = _stages(target, name)
    with _told(target, "written"):
        target.mkdir(parents=True, exist_ok=True)
        _settle(target, name)
        shutil.rmtree(saving, ignore_errors=True)
        saving.mkdir()
        try:
            for suffix, data in ((TENSORS, tensors), (CONFIG, f"{config}\n".encode())):
                _write_synced(saving / f"{name}{suffix}", data)
            _sync(saving)
            saving.rename(saved)
        except BaseException:
            shutil.rmtree(saving, ignore_errors=True)
            raise
        _sync(target)
        _settle(target, name)


def read_pair(folder: str | Path, name: str, *, what: str, hint: str) -> tuple[bytes, bytes]:
    """Bytes of NAME.safetensors and NAME.json, of the same save.

    Args:
        folder: Where they are.
        name: Of both files.
        what: What they are, for errors.
        hint: What makes them.

    Raises:
        NotFoundError: One of them is missing.
        StoreError: They cannot be read.
    """
    source = Path(folder)
    with _told(source, "read"):
        missing: list[str] = []
        for _ in range(_TRIES):
            try:
                before = _marks(source, name)
                tensors, config = (_place(source, name, suffix).read_bytes() for suffix in (TENSORS, CONFIG))
                if before == _marks(source, name):
                    return tensors, config
                missing = []
            except FileNotFoundError:  # or it moved meanwhile, also while this looks
                missing = [
                    f"{name}{ending}"
                    for ending in (CONFIG, TENSORS)
                    if not _place(source, name, ending).exists()
                ]
    if missing:
        shown = f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing"
        raise NotFoundError(f"no {what} in {source}: {shown}; {hint}")
    raise StoreError(f"the {what} in {source} changes all the time; read it when nothing is saved there")


def has_pair(folder: str | Path, name: str) -> bool:
    """Whether a folder holds the JSON of such a pair."""
    return _place(Path(folder), name, CONFIG).is_file()


def write_file(path: Path, text: str) -> None:
    """Writes one file; until it is complete, what was there before stays.

    Raises:
        StoreError: It cannot be written.
    """
    part = path.with_name(f".{path.name}.saving")
    with _told(path, "written"):
        try:
            _write_synced(part, text.encode("utf-8"))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def publish(work: Path, target: Path) -> None:
    """Gives a complete folder its name; what is in it is on the disk before.

    Raises:
        OSError: There is such a folder already, or it cannot be written.
    """
    for path in work.rglob("*"):
        _sync(path)
    _sync(work)
    work.rename(target)
    _sync(target.parent)


def _stages(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f".{name}.saving", folder / f".{name}.saved"


def _settle(folder: Path, name: str) -> None:
    """Moves what was saved to its place, also what a killed process has left."""
    saved = _stages(folder, name)[1]
    if saved.is_dir():
        for suffix in (TENSORS, CONFIG):
            if (path := saved / f"{name}{suffix}").is_file():
                path.replace(folder / path.name)
        _sync(folder)
        shutil.rmtree(saved)


def _place(folder: Path, name: str, suffix: str) -> Path:
    saved = _stages(folder, name)[1] / f"{name}{suffix}"
    return saved if saved.is_file() else folder / saved.name


def _marks(folder: Path, name: str) -> list[tuple[int, int, int]]:
    """Tells both files again, wherever they were moved."""
    found = (_place(folder, name, suffix).stat() for suffix in (TENSORS, CONFIG))
    return [(state.st_ino, state.st_mtime_ns, state.st_size) for state in found]


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Sees to it that a file's bytes, or a folder's names, outlast a power cut."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def _told(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kept = "; what was there before is kept" if done == "written" else ""
        raise (DiskFullError if full else StoreError)(
            f"{path} cannot be {done}: {error.strerror or error}{kept}"
        ) from error


# -- what is in the files


def packed(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Safetensors bytes with a checksum; the same for the same tensors."""
    ordered = {
        name: np.ascontiguousarray(tensors[name]).reshape(tensors[name].shape) for name in sorted(tensors)
    }
    return save(ordered, metadata={_SUM: _digest(ordered)})


def unpacked(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """Tensors of safetensors bytes; a checksum is compared where there is one.

    Args:
        data: What `packed` or another program gave.
        where: Names them in errors.

    Raises:
        InvalidInputError: The bytes are damaged.
    """
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(f"{where} cannot be read, its tensors are damaged: {error}") from error
    known = (header.get("__metadata__") or {}).get(_SUM)
    if known is not None and known != _digest(tensors):
        raise InvalidInputError(
            f"{where} is damaged: its tensors do not have the checksum that they were saved with; fetch or "
            f"train it again"
        )
    return tensors


def tensors_below(tensors: Mapping[str, _Tensor], prefix: str) -> dict[str, _Tensor]:
    """The tensors of one part, by their names in it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def parsed(kind: type[Config], text: str | bytes, where: str) -> Config:
    """The JSON of a pair as a model; a newer `format_version` is told apart from damage.

    Raises:
        InvalidInputError: It is damaged, of another kind, or of a newer release.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        newer = [problem["input"] for problem in error.errors() if problem["loc"] == ("format_version",)]
        if newer:
            raise InvalidInputError(
                f"{where} cannot be read: this release does not know its format version, {newer[0]!r}; "
                f"upgrade mllm-plugin"
            ) from error
        raise InvalidInputError(f"{where} cannot be read, its JSON does not fit: {error}") from error


def check_tensors(
    tensors: Mapping[str, NDArray[Any]],
    shapes: Mapping[str, Shape],
    where: str,
    *,
    unbounded: Sequence[str] = (),
) -> dict[str, int]:
    """Checks names, shapes, kinds of numbers and values.

    Args:
        tensors: What was read.
        shapes: Of each, as `check_shapes` takes them.
        where: What they are, for errors.
        unbounded: Tensors that may be infinite upwards.

    Returns:
        All sizes by name.

    Raises:
        InvalidInputError: A tensor is missing or unknown, has another shape, or holds other than finite
            floating-point numbers.
    """
    known = check_shapes({name: value.shape for name, value in tensors.items()}, shapes, where)
    for name, value in tensors.items():
        check_numbers(value, f"{where}: tensor {name!r}", unbounded=name in unbounded)
    return known


def check_shapes(
    found: Mapping[str, tuple[int, ...]], shapes: Mapping[str, Shape], where: str
) -> dict[str, int]:
    """Checks names and shapes.

    Args:
        found: Shapes by the names of tensors.
        shapes: What they should be; a name in place of a number stands for the same number everywhere.
        where: What they are, for errors.

    Returns:
        All sizes by name.

    Raises:
        InvalidInputError: A tensor is missing or unknown, or has another shape.
    """
    known: dict[str, int] = {}
    for name in sorted({*found, *shapes}):
        if name not in shapes:
            raise InvalidInputError(f"{where}: tensor {name!r} is unknown; expected {_named(shapes)}")
        expected = _told_shape(shapes[name], known)
        if name not in found:
            raise InvalidInputError(f"{where}: tensor {name!r} is missing; expected shape {expected}")
        if not _fits(found[name], shapes[name], known):
            raise InvalidInputError(
                f"{where}: tensor {name!r} has shape {list(found[name])}, expected {expected}"
            )
    return known


def check_numbers(tensor: NDArray[Any], what: str, *, unbounded: bool = False) -> None:
    """Checks that a tensor holds floating-point numbers, and finite ones.

    Raises:
        InvalidInputError: It does not.
    """
    if not np.issubdtype(tensor.dtype, np.floating):
        raise InvalidInputError(f"{what} holds {tensor.dtype}, expected floating-point numbers")
    right = np.isfinite(tensor) | (np.isposinf(tensor) if unbounded else False)
    if not right.all():
        first = tuple(int(place[0]) for place in np.nonzero(np.atleast_1d(~right)))
        raise InvalidInputError(
            f"{what} holds {int((~right).sum())} numbers that are not finite, the first at {first}; expected "
            f"none. It is damaged, or its training diverged"
        )


def _fits(found: tuple[int, ...], shape: Shape, known: dict[str, int]) -> bool:
    """Whether a shape is as expected; sizes met for the first time become known."""
    if len(found) != len(shape) or not all(found):
        return False
    pairs = zip(found, shape, strict=True)
    return all(size == (known.setdefault(one, size) if isinstance(one, str) else one) for size, one in pairs)


def _told_shape(shape: Shape, known: Mapping[str, int]) -> str:
    sizes = (
        f"{size} = {known[size]}" if isinstance(size, str) and size in known else str(size) for size in shape
    )
    return f"[{', '.join(sizes)}]"


def _named(names: Mapping[str, Any]) -> str:
    shown = [repr(name) for name in list(names)[:8]]
    return (
        ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")
        or "none"
    )


def _digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        one = tensors[name]
        digest.update(f"{name}\0{one.dtype.str}\0{one.shape}\0".encode("utf-8", "surrogatepass"))
        digest.update(one.tobytes())
    return digest.hexdigest()
