"""What readers are trained on: chunks as token ids, blanks found in them, and questions where there are some.

Shapes: n chunks, b blanks, q questions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.text.chunking import Span, split_text

LONGEST = 192  # tokens of a chunk while training
YEAR, NUMBER, NAME, RARE = range(4)
_NUMBER = re.compile(r"(?<= )\d[\d,.]*\d|(?<= )\d")
_YEAR = re.compile(r"1\d{3}|20\d{2}")
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][\w'’-]+(?: [A-Z][\w'’-]+){0,3}")
_RARE = re.compile(r"(?<= )[^\W\d_A-Z][^\W\d_]{6,}")
_SENTENCE = re.compile(r"[.!?]\s+|\n+")
_BLANKS = 5  # per chunk at most
_SHORTEST = 16  # characters of a chunk
HELD_OUT = -1
_WORDS = (50, 80, 105, 105, 130)


class Ragged:
    """Sequences of token ids of differing lengths, side by side.

    Args:
        values: All ids.
        ends: Where each sequence ends.
    """

    def __init__(self, values: NDArray[np.unsignedinteger], ends: NDArray[np.int64]) -> None:
        self.values, self.ends = values, ends

    @classmethod
    def of(cls, rows: Sequence[Sequence[int] | NDArray[np.integer]]) -> Ragged:
        """From lists."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        flat = np.fromiter((one for row in rows for one in row), np.uint32, int(lengths.sum()))
        small = not len(flat) or flat.max() < 1 << 16  # as most vocabularies are
        return cls(flat.astype(np.uint16) if small else flat, np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> NDArray[np.int64]:
        start = 0 if row == 0 else self.ends[row - 1]
        return self.values[start : self.ends[row]].astype(np.int64)


@dataclass
class ReaderTexts:
    """Texts as a reader's training takes them.

    Attributes:
        chunks: Token ids of chunks, those of one document in a row.
        documents: Document of each chunk [n].
        sources: Set that each chunk is from [n]; `HELD_OUT` for measuring alone.
        blanks: Chunk, first token of the sentence, first of the blank, first after it, first after the
            sentence, kind [b, 6].
        fillings: Token ids of what stood in each blank.
        asked: Chunk that answers each question [q].
        questions, answers: Token ids of each.
        held_out: Whether a question is for measuring [q].
        idf: Of each token id over the chunks [v].
    """

    chunks: Ragged
    documents: NDArray[np.int32]
    sources: NDArray[np.int8]
    blanks: NDArray[np.int32]
    fillings: Ragged
    asked: NDArray[np.int32]
    questions: Ragged
    answers: Ragged
    held_out: NDArray[np.bool_]
    idf: NDArray[np.float16]

    def save(self, path: Path) -> None:
        """Writes one npz."""
        arrays: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Ragged):
                arrays |= {f"{field.name}.values": value.values, f"{field.name}.ends": value.ends}
            else:
                arrays[field.name] = value
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> ReaderTexts:
        """Reads what `save` wrote."""
        with np.load(path) as file:
            values: dict[str, Any] = {
                field.name: file[field.name]
                if field.name in file
                else Ragged(file[f"{field.name}.values"], file[f"{field.name}.ends"])
                for field in fields(cls)
            }
        return cls(**values)


@dataclass(frozen=True)
class Asked:
    """A question about a document.

    Attributes:
        text: The question.
        answers: Accepted answers; one of them stands in the document.
        document: Its id.
    """

    text: str
    answers: tuple[str, ...]
    document: str


Set = tuple[Iterable[tuple[str, str]], Sequence[Asked]]
Cut = Callable[[str], Sequence[Span]]


def prepare(
    sets: Sequence[Set],
    tokenizer: Any,
    *,
    held_out: Set | None = None,
    cut: Cut | None = None,
    seed: int = 0,
) -> ReaderTexts:
    """Cuts and tokenises texts, and finds blanks.

    Args:
        sets: For each its documents (id, text) and its questions.
        tokenizer: A fast one.
        held_out: Documents that are for measuring alone, and their questions.
        cut: Gives a text's chunks; of differing lengths when left out.
        seed: Of chunk lengths and of the choice of blanks.
    """
    rng = np.random.default_rng(seed)
    found = _Found(tokenizer, rng, cut or (lambda text: split_text(text, int(rng.choice(_WORDS)))))
    for number, (documents, questions) in [*enumerate(sets), *([(HELD_OUT, held_out)] if held_out else [])]:
        by_document: dict[str, list[Asked]] = {}
        for question in questions:
            by_document.setdefault(question.document, []).append(question)
        for name, text in documents:
            found.add(number, text, by_document.get(name, ()))
    return found.finish()


class _Found:
    def __init__(self, tokenizer: Any, rng: np.random.Generator, cut: Cut) -> None:
        self.tokenizer, self.rng, self.cut = tokenizer, rng, cut
        self.texts: list[str] = []
        self.documents: list[int] = []
        self.sources: list[int] = []
        self.picked: list[list[tuple[int, int, int, int, int]]] = []
        self.asked: list[tuple[int, Asked]] = []

    def add(self, source: int, text: str, questions: Sequence[Asked]) -> None:
        document = self.documents[-1] + 1 if self.documents else 0
        for span in self.cut(text):
            piece = text[span.start : span.end]
            if len(piece) < _SHORTEST:
                continue
            self.texts.append(piece)
            self.documents.append(document)
            self.sources.append(source)
            self.picked.append(_pick(piece, self.rng))
            for question in questions:
                if any(answer in piece for answer in question.answers):
                    self.asked.append((len(self.texts) - 1, question))

    def finish(self) -> ReaderTexts:
        rows, blanks, fillings = [], [], []
        for start in range(0, len(self.texts), 2000):
            part = self.texts[start : start + 2000]
            encoded = self.tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
            for place, (ids, offsets) in enumerate(
                zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            ):
                ids, number = ids[:LONGEST], start + place
                rows.append(ids)
                firsts = np.array([offset[0] for offset in offsets[: len(ids)]] + [offsets[len(ids) - 1][1]])
                for one in self.picked[number]:
                    filled = _to_tokens(one, firsts, part[place])
                    if filled is not None:
                        blanks.append((number, *filled, one[4]))
                        fillings.append(part[place][one[1] : one[2]])
        kept = self._one_chunk_each(rows)
        return ReaderTexts(
            Ragged.of(rows),
            np.array(self.documents, np.int32),
            np.array(self.sources, np.int8),
            np.array(blanks, np.int32).reshape(-1, 6),
            Ragged.of(self._ids(fillings)),
            np.array([number for number, _ in kept], np.int32),
            Ragged.of(self._ids([one.text for _, one in kept])),
            Ragged.of(self._ids([self._said(number, one) for number, one in kept])),
            np.array([self.sources[number] == HELD_OUT for number, _ in kept], bool),
            _idf(rows, len(self.tokenizer)),
        )

    def _one_chunk_each(self, rows: list[list[int]]) -> list[tuple[int, Asked]]:
        """The first chunk that has an answer; a chunk cut at `LONGEST` may have lost it."""
        best: dict[int, tuple[int, Asked]] = {}
        for number, one in self.asked:
            if id(one) not in best and len(rows[number]) < LONGEST:
                best[id(one)] = number, one
        return list(best.values())

    def _said(self, number: int, one: Asked) -> str:
        return next(answer for answer in one.answers if answer in self.texts[number])

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []


def _pick(text: str, rng: np.random.Generator) -> list[tuple[int, int, int, int, int]]:
    """Blanks: start of the sentence, start and end of the blank, end of the sentence, in characters; kind."""
    ends = [0, *(match.end() for match in _SENTENCE.finditer(text)), len(text)]
    found = [
        (*match.span(), YEAR if _YEAR.fullmatch(match[0]) else NUMBER) for match in _NUMBER.finditer(text)
    ]
    found += [(*match.span(), NAME) for match in _NAME.finditer(text)]
    rare = [(*match.span(), RARE) for match in _RARE.finditer(text)]
    rng.shuffle(found)
    rng.shuffle(rare)
    chosen = [*found[: _BLANKS - 1], *rare[: max(1, _BLANKS - 1 - len(found))]]
    result = []
    for start, end, kind in chosen:
        before = max(one for one in ends if one <= start)
        after = min(one for one in ends if one >= end)
        if before < start:
            result.append((before, int(start), int(end), after, int(kind)))
    return result


def _to_tokens(
    one: tuple[int, int, int, int, int], firsts: NDArray[np.int64], text: str
) -> tuple[int, int, int, int] | None:
    """The places of a blank in tokens; None where a token crosses its edge or it lies past the end."""
    begin, start, end, finish, _ = one
    if finish > firsts[-1]:
        return None
    places = [int(np.searchsorted(firsts, place)) for place in (begin, start, end, finish)]
    if places[1] and places[1] < len(firsts) and firsts[places[1]] != start:
        places[1] -= 1  # a token that begins with the blank before the word
    crossing = places[2] < len(firsts) - 1 and firsts[places[2]] != end
    starts_well = firsts[places[1]] == start or text[firsts[places[1]] : start].isspace()
    return None if crossing or not starts_well or places[2] <= places[1] else tuple(places)  # type: ignore[return-value]


def _idf(rows: Sequence[Sequence[int]], words: int) -> NDArray[np.float16]:
    counts: Counter[int] = Counter()
    for row in rows:
        counts.update(set(row))
    df = np.zeros(words)
    df[list(counts)] = list(counts.values())
    return np.log((len(rows) + 1) / (df + 1)).astype(np.float16)
