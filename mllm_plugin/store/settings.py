"""What a memory was made with: encoder, dimension, configuration; what the encoder makes of some texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import apsw
import numpy as np
from pydantic import ValidationError

from mllm_plugin.config import MemoryConfig
from mllm_plugin.encoders.identity import Sample, is_anonymous, sample_of
from mllm_plugin.errors import FormatVersionError, InvalidInputError
from mllm_plugin.hierarchy import Hierarchy, document_mark
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.store.connections import decoding
from mllm_plugin.store.database import Database
from mllm_plugin.store.decoded import HIERARCHY
from mllm_plugin.store.snapshot import Snapshot
from mllm_plugin.store.writer import save_word_rule
from mllm_plugin.types import Namespace

_NAMES = ("encoder", "config", "hierarchy")
_FIXED = ("chunking", "tree", "level0")
_PROBES, _CHUNKS = "probes", 3


class Settings(NamedTuple):
    """The stored settings."""

    fingerprint: str
    dim: int
    hierarchy: str
    config: MemoryConfig

    def resolve(self, config: MemoryConfig | None) -> MemoryConfig:
        """The settings to work with: a given configuration, if it agrees in what the stored data depends on.

        Raises:
            InvalidInputError: It does not.
        """
        if config is None:
            return self.config
        for name in _FIXED:
            stored, given = getattr(self.config, name), getattr(config, name)
            if stored != given:
                raise InvalidInputError(
                    f"this memory was made with {name}={stored!r}, got {given!r}; that cannot change later. "
                    f"Leave it as it was, or build a new memory"
                )
        return config


def load_settings(database: Database) -> Settings | None:
    """Reads the settings; None in a memory that was never opened with an encoder."""
    with database.read() as tx:
        rows = dict(tx.execute("SELECT key, value FROM meta WHERE key <> 'version'"))
    if not rows:
        return None
    with decoding(f"a setting of {database.folder}"):
        return _settings(database, rows)


def _settings(database: Database, rows: dict[str, Any]) -> Settings:
    if not isinstance(rows["dim"], int) or not all(isinstance(rows[name], str) for name in _NAMES):
        raise TypeError("of another type")
    try:
        config = MemoryConfig.model_validate_json(rows["config"])
    except ValidationError as error:
        raise FormatVersionError(
            f"another release wrote the settings of {database.folder}; upgrade mllm-plugin ({error})"
        ) from error
    return Settings(rows["encoder"], rows["dim"], rows["hierarchy"], config)


def save_settings(
    database: Database, config: MemoryConfig, encoder: TextEncoder | None, hierarchy: Hierarchy | None
) -> tuple[Settings, bool]:
    """Writes the settings of a new memory.

    Returns:
        The settings, and whether they are these and not those that another process wrote first.
    """
    if encoder is None or hierarchy is None:
        raise InvalidInputError(f"the memory at {database.folder} is new; open it with an encoder first")
    probes = sample_of(encoder) if is_anonymous(encoder) else None
    with database.write() as tx:
        rows = [
            ("encoder", encoder.fingerprint),
            ("dim", encoder.dim),
            ("config", _chosen(config)),
        ]
        first = not tx.execute("SELECT 1 FROM meta WHERE key = 'encoder'").get
        if first:
            tx.executemany("INSERT INTO meta VALUES (?, ?)", rows)
            save_word_rule(tx)
            save_hierarchy(tx, hierarchy)
            if probes is not None:
                save_probes(tx, probes)
    found = load_settings(database)
    assert found is not None
    return found, first


def mark_as_copy(tx: apsw.Connection, folder: str | None) -> None:
    """Marks a memory as an unfinished copy of the one in `folder`; None when it is finished."""
    if folder is None:
        tx.execute("DELETE FROM meta WHERE key = 'copied_from'")
    else:
        tx.execute("INSERT OR REPLACE INTO meta VALUES ('copied_from', ?)", (folder,))


def _chosen(config: MemoryConfig) -> str:
    """What the data depends on and what the user set; all else follows the defaults of the release in use."""
    chosen = config.model_dump(mode="json", exclude_unset=True)
    return json.dumps(chosen | config.model_dump(mode="json", include=set(_FIXED)))


def save_probes(tx: apsw.Connection, sample: Sample) -> None:
    """Keeps what a new memory's encoder makes of the probe texts."""
    tx.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_PROBES, sample.to_json()))


def load_probes(tx: apsw.Connection, dim: int) -> Sample | None:
    """What was kept; in a memory without it some of its own chunks, None where the encoder made none."""
    kept = tx.execute("SELECT value FROM meta WHERE key = ?", (_PROBES,)).get
    return _of_chunks(tx, dim) if kept is None else Sample.from_json(kept, dim)


def _of_chunks(tx: apsw.Connection, dim: int) -> Sample | None:
    found = Snapshot(tx, dim).some_chunks(_CHUNKS)
    if not found:
        return None
    texts, vectors = zip(*found, strict=True)
    none = np.zeros((0, dim), dtype=np.float32)
    return Sample(texts, np.asarray(vectors, dtype=np.float32), none)


# -- the hierarchy and its weights


def save_hierarchy(tx: apsw.Connection, hierarchy: Hierarchy) -> None:
    """Records the hierarchy in use and copies its weights; those of the one before are deleted."""
    tx.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (HIERARCHY, hierarchy.fingerprint))
    tx.execute("DELETE FROM weights WHERE tensors <> x''")
    if (weights := hierarchy.weights) is not None:
        config = weights.config.model_dump(mode="json")
        marks = json.dumps(config.get("documents", []))
        tx.execute(
            "INSERT INTO weights (fingerprint, config, tensors, documents) VALUES (?, ?, ?, ?)",
            (weights.fingerprint, json.dumps(config), weights.tensors, marks),
        )


def note_reader(tx: apsw.Connection, folder: str, marks: Iterable[str]) -> None:
    """Records a reader that was trained on documents; its numbers lie elsewhere, so its row has none.

    Args:
        tx: A write transaction.
        folder: Where the reader is; what was noted for it before stays.
        marks: Of the documents, see `document_mark`.
    """
    name = f"adapter:{folder}"
    known = tx.execute("SELECT documents FROM weights WHERE fingerprint = ?", (name,)).get
    tx.execute("DELETE FROM weights WHERE fingerprint = ?", (name,))
    tx.execute(
        "INSERT INTO weights (fingerprint, config, tensors, documents) VALUES (?, '{}', x'', ?)",
        (name, json.dumps(sorted({*marks, *json.loads(known or "[]")}))),
    )


def weights_that_saw(tx: apsw.Connection, namespace: Namespace, rowids: Sequence[int]) -> tuple[str, ...]:
    """Fingerprints of the stored weights, and folders of readers, that were trained on one of these."""
    found = []
    for fingerprint, documents in list(tx.execute("SELECT fingerprint, documents FROM weights")):
        marks = set(json.loads(documents))
        if marks and any(document_mark(namespace, _id(tx, rowid)) in marks for rowid in rowids):
            found.append(fingerprint)
    return tuple(found)


def _id(tx: apsw.Connection, rowid: int) -> str:
    return tx.execute("SELECT id FROM documents WHERE document_rowid = ?", (rowid,)).get
