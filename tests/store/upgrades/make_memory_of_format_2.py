"""Makes `memory_of_format_2.db.gz`: a memory with times, that every later release must open; run once.

PYTHONPATH=. python tests/store/upgrades/make_memory_of_format_2.py
"""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

from mllm_plugin import Document, MemoryConfig, MemoryIndex, TreeConfig
from tests.helpers.toy import ToyEncoder

FIXTURE = Path(__file__).with_name("memory_of_format_2.db.gz")
DIM = 4
DOCUMENTS = [
    Document("a door that was red", id="was", valid_from="2020-01-01", valid_to="2023-01-01"),
    Document("a door that is blue", id="is", valid_from="2023-01-01"),
    Document("a door that is gone", id="gone", expires_at="2024-01-01"),
    Document("a door for a long time", id="long", expires_at="9000-01-01"),
]


def main() -> None:
    """Writes the fixture."""
    with tempfile.TemporaryDirectory() as folder:
        config = MemoryConfig(tree=TreeConfig(fan_out=4))
        with MemoryIndex.open(Path(folder) / "memory", encoder=ToyEncoder(DIM), config=config) as memory:
            memory.add(DOCUMENTS, namespace="doors")
            memory.mask("was", label="superseded", namespace="doors")
            memory.update("is", metadata={"updated": True}, namespace="doors")
            memory.search("door", namespace="doors")  # which masks what has expired
            memory.backup(Path(folder) / "copy.db")
        FIXTURE.write_bytes(gzip.compress((Path(folder) / "copy.db").read_bytes(), mtime=0))


if __name__ == "__main__":
    main()
