"""Saving what can be read of a damaged memory: into a new one, in which all that is derived is made anew."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tqdm import tqdm

from mllm_plugin.config import MemoryConfig
from mllm_plugin.documents.records import known_times
from mllm_plugin.encoders import VectorsOnly, as_encoder
from mllm_plugin.errors import (
    EncoderMismatchError,
    InvalidInputError,
    MLLMError,
    NotFoundError,
    StoreBusyError,
)
from mllm_plugin.hierarchy import IDENTITY, Hierarchy, parse_weights
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.reports import RepairReport
from mllm_plugin.store.database import FILE_NAME, is_open_here
from mllm_plugin.store.filesystem import draft_folder, held_alone, swap_folders
from mllm_plugin.store.salvage import Salvage, SavedDocument, open_salvage
from mllm_plugin.types import Namespace

_BATCH = 256


def repair(
    path: str | Path, target: str | Path, *, encoder: Any = None, progress: bool = True
) -> RepairReport:
    """Makes a new memory of every document that can be read of a damaged one, which stays as it is.

    Pages that do not check out are passed over. Trees, word statistics, postings and filters are made anew.
    Vectors are taken over; where they are lost, the text is embedded again.

    Args:
        path: Folder of the damaged memory. Nobody may have it open, nor can anybody open it meanwhile.
        target: Folder of the new one; it must not be there.
        encoder: As for `MemoryIndex.open`, the one that the memory was made with. Without it documents whose
            vectors are lost are lost too.
        progress: Show a progress bar, on a terminal.

    Raises:
        NotFoundError: There is no memory.
        InvalidInputError: The target is there; or the damaged memory's settings are lost and no encoder is
            given.
        EncoderMismatchError: The memory was made with another encoder.
        DamagedStoreError: Nothing can be read.
        StoreBusyError: This process or another one has it open.
    """
    source, folder = Path(path) / FILE_NAME, Path(target)
    if not source.is_file():
        raise NotFoundError(f"no memory at {path}: {FILE_NAME} is missing there")
    if folder.exists():
        raise InvalidInputError(f"{folder} exists; a repair never overwrites. Choose another folder")
    if is_open_here(source):
        raise StoreBusyError(f"{source} is open in this process; close it before it is repaired")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held_alone(source), closing(open_salvage(source)) as salvage, draft_folder(folder) as draft:
        report = _Repair(salvage, encoder).run(draft / "new", progress)
        swap_folders(draft / "new", folder, folder)
    return report


class _Repair:
    """One run."""

    def __init__(self, salvage: Salvage, encoder: Any) -> None:
        self._salvage, self._notes = salvage, list[str]()
        self._encoder = self._chosen(encoder)
        self._can_encode = not isinstance(self._encoder, VectorsOnly)
        self._kept: set[tuple[Namespace, str]] = set()
        self._lost: set[tuple[Namespace, str]] = set()
        self._encoded = 0

    def run(self, folder: Path, progress: bool) -> RepairReport:
        config, hierarchy = self._config(), self._hierarchy()
        with MemoryIndex.open(folder, encoder=self._encoder, config=config, hierarchy=hierarchy) as memory:
            self._copy(memory, progress)
            self._readers(memory)
            problems = memory.verify().problems
            memory.compact()
        known = set(self._salvage.known_documents())
        notes = (*self._notes, *self._salvage.notes, *problems)
        lost = tuple(sorted((self._lost | known) - self._kept))
        return RepairReport(len(self._kept), lost, self._encoded, len(self._salvage.pages.damaged), notes)

    # -- settings
    # ------------------------------------------------------------------------------------------------

    def _chosen(self, encoder: Any) -> TextEncoder:
        """The encoder that is given, if it is the memory's; else one that only names it."""
        fingerprint, dim = self._salvage.meta.get("encoder"), self._salvage.dim
        if encoder is None:
            if fingerprint is None or dim is None:
                raise InvalidInputError(
                    "the memory's settings are lost, and with them the name of its encoder: give encoder="
                )
            return VectorsOnly(dim, fingerprint)
        given = as_encoder(encoder)
        if fingerprint not in (None, given.fingerprint):
            raise EncoderMismatchError(
                f"the memory was made with encoder {fingerprint!r}, got {given.fingerprint!r}; name it, "
                f"or none: then what has lost its vectors is lost"
            )
        if self._salvage.dim is None:
            self._salvage.dim = given.dim
        return given

    def _config(self) -> MemoryConfig | None:
        try:
            return MemoryConfig.model_validate_json(self._salvage.meta["config"])
        except (KeyError, ValidationError):
            self._notes.append("the memory's settings are lost; it has the default ones")
            return None

    def _hierarchy(self) -> Hierarchy | str:
        wanted = self._salvage.meta.get("hierarchy", IDENTITY)
        for fingerprint, config, tensors, _ in self._salvage.weights():
            if fingerprint == wanted:
                try:
                    return Hierarchy.from_weights(parse_weights(config, tensors, "the memory"))
                except (MLLMError, LookupError, TypeError, ValueError):
                    break
        if wanted != IDENTITY:
            self._notes.append(f"the trained weights {wanted!r} are lost; install them again, or train")
        return "identity"

    def _readers(self, memory: MemoryIndex) -> None:
        """Takes over which documents the readers have seen whose numbers lie elsewhere."""
        for fingerprint, _, _, marks in self._salvage.weights():
            if fingerprint.startswith("adapter:"):
                memory.note_reader(fingerprint.removeprefix("adapter:"), json.loads(marks))

    # -- documents
    # -----------------------------------------------------------------------------------------------

    def _copy(self, memory: MemoryIndex, progress: bool) -> None:
        hidden = None if progress else True
        documents = iter(tqdm(self._salvage.documents(), unit=" documents", disable=hidden))
        while batch := list(islice(documents, _BATCH)):
            ready = list(self._records(batch))
            try:
                self._import(memory, ready)
            except (MLLMError, ValueError, TypeError):
                for one in ready:
                    self._import_one(memory, one)

    def _import(self, memory: MemoryIndex, records: list[dict[str, Any]]) -> None:
        self._encoded += memory.import_records(records).encoded
        self._kept |= {_name(record) for record in records}

    def _import_one(self, memory: MemoryIndex, record: dict[str, Any]) -> None:
        try:
            self._import(memory, [record])
        except (MLLMError, ValueError, TypeError) as error:
            self._lost.add(_name(record))
            self._notes.append(f"document {record['id']!r} cannot be stored: {error}")

    def _records(self, documents: list[SavedDocument]) -> Iterator[dict[str, Any]]:
        for document in documents:
            record = {
                "id": document.id,
                "text": document.text,
                "metadata": document.metadata,
                "labels": list(document.labels),
                "masks": list(document.masks),
                "namespace": list(document.namespace),
                "split": document.split,
                **known_times(document.times.fields()),
            }
            whole = document.chunks is not None and all(chunk.vector is not None for chunk in document.chunks)
            unseen = sum(chunk.lost_windows for chunk in document.chunks or ())
            if unseen and self._can_encode:
                whole = False
            elif unseen and whole:
                self._notes.append(
                    f"document {document.id!r} has lost windows; give the encoder to make them anew"
                )
            if whole:
                record |= {
                    "encoder": self._encoder.fingerprint,
                    "chunks": list(map(_chunk, document.chunks or ())),
                }
            if whole or self._can_encode:
                yield record
            else:
                self._lost.add(_name(record))
                self._notes.append(
                    f"document {document.id!r} has lost its vectors; give the encoder to keep it"
                )


def _chunk(chunk: Any) -> dict[str, Any]:
    packed = None if chunk.windows is None else base64.b64encode(chunk.windows).decode()
    vector = chunk.vector.astype(float).tolist()
    record = {"start": chunk.span.start, "end": chunk.span.end, "embedding": vector, "windows": packed}
    return record | ({"given": True} if chunk.given else {})


def _name(record: dict[str, Any]) -> tuple[Namespace, str]:
    return tuple(record["namespace"]), record["id"]
