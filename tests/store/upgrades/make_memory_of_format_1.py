"""Makes `memory_of_format_1.db.gz`, a small memory that every later release must open; run once per format.

PYTHONPATH=. python tests/store/upgrades/make_memory_of_format_1.py
"""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

from mllm_plugin import Document, MemoryConfig, MemoryIndex, TreeConfig
from tests.helpers.toy import ToyEncoder

FIXTURE = Path(__file__).with_name("memory_of_format_1.db.gz")
DIM = 4
DOCUMENTS = [
    Document(
        f"room {number} has a {colour} door and {number * 7} windows",
        id=f"room-{number}",
        metadata={"number": number, "colour": colour, "tags": ["a", colour]},
        labels=("even",) if number % 2 == 0 else (),
    )
    for number, colour in enumerate(["red", "blue", "green", "white"] * 10)
]
PRIVATE = Document("anna keeps the key under the mat", id="key")


def main() -> None:
    """Writes the fixture."""
    with tempfile.TemporaryDirectory() as folder:
        config = MemoryConfig(tree=TreeConfig(fan_out=4))
        with MemoryIndex.open(Path(folder) / "memory", encoder=ToyEncoder(DIM), config=config) as memory:
            memory.add(DOCUMENTS)
            memory.add([Document("a piece that is never cut. It stays whole.", id="whole")], split=False)
            memory.add([Document("its own vector", id="vector")], embeddings=[[1.0, 0.0, 0.0, 0.0]])
            memory.add([PRIVATE], namespace=("users", "anna"))
            memory.mask(filter={"number": {"$lt": 3}}, label="draft")
            memory.backup(Path(folder) / "copy.db")
        FIXTURE.write_bytes(gzip.compress((Path(folder) / "copy.db").read_bytes(), mtime=0))


if __name__ == "__main__":
    main()
