"""Text from outside as tokens that are mere text, whatever it says.

A tokenizer has tokens beside its vocabulary, special ones and others, that steer the model: they end a turn,
call a tool, begin a thought. Here they go by private names that no text has, so that only a prompt's own
layout can use them. Where the vocabulary spells one of them, the text is read in smaller pieces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary, ref

from tokenizers import AddedToken, Tokenizer

PRIVATE = ("\ue000", "\ue001")  # what begins and ends a private name; no sane text has them
_WITHOUT = {ord(mark): None for mark in PRIVATE}
_BLANK = {ord(mark): " " for mark in PRIVATE}
_NOT_TEXT = ("post_processor", "truncation", "padding")

Token = tuple[int, tuple[int, int]]
"""An id and the characters that it covers."""


class PlainTokenizer:
    """A model's tokenizer for text that may say anything, and for prompts around such text.

    Args:
        tokenizer: The model's, a fast one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = ref(tokenizer)
        self.size = len(tokenizer)
        added = tokenizer.added_tokens_decoder
        self._added = frozenset(added) | frozenset(tokenizer.all_special_ids)
        self._names = {token: f"{PRIVATE[0]}t{token}{PRIVATE[1]}" for token in added}
        self._bare = _without_added(tokenizer.backend_tokenizer)
        self._bare.add_tokens(
            [
                AddedToken(name, lstrip=added[token].lstrip, rstrip=added[token].rstrip, normalized=False)
                for token, name in self._names.items()
            ]
        )
        self._meant = {name: token for token, name in self._names.items()}
        self._before, self._after = _wrapping(tokenizer)

    def encode(self, text: str) -> list[Token]:
        """Tokens of a text from outside; none of them is an added one."""
        return list(self._tokens(text.translate(_BLANK)))

    def count(self, text: str) -> int:
        """How many tokens a text from outside has."""
        return sum(1 for _ in self._tokens(cleaned(text)))

    def own(self, text: str) -> str:
        """A prompt's own text, with the private names of the added tokens in it."""
        options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
        encoded = self._tokenizer()(text, **options)  # type: ignore[misc]
        parts, done = [], 0
        for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if token in self._names and end > start:
                parts += [text[done:start], self._names[token]]
                done = end
        return "".join([*parts, text[done:]])

    def ids(self, prompt: str, *, wrapped: bool = False) -> list[int]:
        """Token ids of own and `cleaned` text, one after another.

        Args:
            prompt: The text.
            wrapped: With the tokens that the tokenizer puts around every text.
        """
        ids = [token for token, _ in self._tokens(prompt)]
        return [*self._before, *ids, *self._after] if wrapped else ids

    def _tokens(self, text: str) -> Iterator[Token]:
        encoding = self._bare.encode(text, add_special_tokens=False)
        found = zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
        for token, name, (start, end) in found:  # names, since an id of a name may be one of a word too
            if name in self._meant:
                yield self._meant[name], (start, end)
            elif token not in self._added:
                yield token, (start, end)
            elif end - start > 1:
                yield from self._in_halves(text, start, end)

    def _in_halves(self, text: str, start: int, end: int) -> Iterator[Token]:
        """Tokens of a span that would else be an added one; of a single character there are none."""
        middle = (start + end) // 2
        for first, last in ((start, middle), (middle, end)):
            for token, (begin, stop) in self._tokens(text[first:last]):
                yield token, (first + begin, first + stop)


_known: WeakKeyDictionary[Any, PlainTokenizer] = WeakKeyDictionary()


def plain_tokenizer(tokenizer: Any) -> PlainTokenizer:
    """The `PlainTokenizer` of a model's tokenizer, made once."""
    found = _known.get(tokenizer)
    if found is None or found.size != len(tokenizer):
        found = _known[tokenizer] = PlainTokenizer(tokenizer)
    return found


def cleaned(text: str) -> str:
    """A text from outside without what private names are made of."""
    return text.translate(_WITHOUT)


def _without_added(backend: Any) -> Tokenizer:
    description = json.loads(backend.to_str())
    return Tokenizer.from_str(json.dumps({**description, **dict.fromkeys(_NOT_TEXT), "added_tokens": []}))


def _wrapping(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after every text."""
    bare, whole = (
        tokenizer("a", add_special_tokens=special, verbose=False)["input_ids"] for special in (False, True)
    )
    places = range(len(whole) - len(bare) + 1)
    at = next((at for at in places if whole[at : at + len(bare)] == bare), 0)
    return whole[:at], whole[at + len(bare) :]
