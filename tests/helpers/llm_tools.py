"""Documents for the tests of language models."""

from __future__ import annotations

from mllm_plugin import Document

WORDS = ["ships", "kettles", "foxes", "lamps", "rivers", "clocks", "violins", "maps"]


def documents(count: int = 24) -> list[Document]:
    """Documents of three chunks, each about a word of its own."""
    found = []
    for number in range(count):
        word = WORDS[number % len(WORDS)]
        text = " ".join(f"The {word} number {number} has part {part} of {word}." for part in range(6))
        found.append(Document(id=f"d{number}", text=text, metadata={"number": number, "word": word}))
    return found
