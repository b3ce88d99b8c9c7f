"""What an answer says of itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from mllm_plugin.llm.decoding import FinishReason
from mllm_plugin.types import Namespace

AnswerMode = Literal["memory", "text", "both", "none"]


@dataclass(frozen=True, slots=True)
class Source:
    """A piece of the memory that the model read.

    Attributes:
        document_id: Of the document; empty for a node.
        chunk_id: Of the chunk, also for its windows; of a node its id.
        start, end: Character offsets in the document; 0, 0 for a node.
        level: 0 for a token window, 1 for a chunk; 2 and more for a node, read as a label or a vector.
        score: Of the chunk or node; higher is better.
        as_text: Whether it was spelled out; else the model read what it wrote of it.
        text: What was spelled out; empty for what was read as a vector.
        namespace: Where it is.
    """

    document_id: str
    chunk_id: int
    start: int
    end: int
    level: int
    score: float
    as_text: bool
    text: str = ""
    namespace: Namespace = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the model.

    Attributes:
        input_tokens: All that it read, memory tokens included.
        memory_tokens: Positions that vectors of the memory took.
        text_tokens: Of what was spelled out.
        output_tokens: That it wrote, without the one that ends a text.
    """

    input_tokens: int = 0
    memory_tokens: int = 0
    text_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was left out because a budget or the model's context was full.

    Attributes:
        passages: Chunks that were to be spelled out.
        cut: Chunks of which only a part was.
        windows, chunks, nodes: Vectors.
        turns: Earlier messages of a chat.
        labels: Labels of nodes.
    """

    passages: int = 0
    cut: int = 0
    windows: int = 0
    chunks: int = 0
    nodes: int = 0
    turns: int = 0
    labels: int = 0

    def __bool__(self) -> bool:
        return any(dataclasses.astuple(self))


@dataclass(frozen=True, slots=True)
class ReadReport:
    """What `read_index` did.

    Attributes:
        chunks: That it looked at.
        written: Of these, the ones that had no reading vectors yet.
        seconds: That it took.
    """

    chunks: int
    written: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-ready dictionary."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Answer:
    """A text with what it rests on.

    Attributes:
        text: What the model wrote.
        sources: What it read: first what was spelled out, then vectors in the order they were read.
        usage: Tokens.
        mode: What it read with; "none" when the memory had nothing for the question.
        finish_reason: "stop" when it ended by itself or at a stop text, "length" when it was cut.
        dropped: What was left out.
        prompt: What it read, for people.
        known: Whether the memory holds the answer, as far as the model can tell; `text` is its way to decline
            where not. None where it was not trained to tell. False where no hit reached `min_relevance`,
            and the model was not asked.
        unknown: How likely it finds it, in [0, 1], that the memory does not hold the answer; where it was not
            asked, one less the best relevance of a hit.
    """

    text: str
    sources: tuple[Source, ...]
    usage: Usage
    mode: AnswerMode
    finish_reason: FinishReason
    dropped: Dropped
    prompt: str
    known: bool | None = None
    unknown: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-ready dictionary."""
        return dataclasses.asdict(self)
