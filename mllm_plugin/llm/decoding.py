"""How the next token is chosen, and when a text ends."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import LogitsProcessor, StoppingCriteria, TopPLogitsWarper

FinishReason = Literal["stop", "length"]
_BROKEN = "\ufffd"  # what bytes of an unfinished character decode to
_LONGEST_CHARACTER = 3  # bytes of a character that may still be missing its last


class Decoding(BaseModel):
    """Settings of generation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_new_tokens: int = Field(default=64, ge=1)
    """Longest output."""
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the likeliest token, the same at every run."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample among the likeliest tokens that together have this probability."""
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    """Makes sampling repeatable; random when left out."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts before which the output ends."""
    decline_above: float = Field(default=0.5, ge=0, le=1)
    """Where the model was trained to decline, it does so when it finds it likelier than this that it was not
    given the answer; 1 for never.
    """


class SeededSampling(LogitsProcessor):
    """Samples by adding Gumbel noise to the logits, so that the greedy choice is the sample.

    Each row draws from a generator of its own: threads and the rest of a batch change nothing.
    """

    def __init__(self, decoding: Decoding, rows: int) -> None:
        seed = secrets.randbits(62) if decoding.seed is None else decoding.seed
        self._temperature = decoding.temperature
        self._nucleus = TopPLogitsWarper(decoding.top_p) if decoding.top_p < 1 else None
        own = [seed if decoding.seed is not None else seed + row for row in range(rows)]
        self._generators = [torch.Generator().manual_seed(number) for number in own]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores [b, v] in, noisy scores [b, v] out."""
        scores = scores.float() / self._temperature
        if self._nucleus is not None:
            scores = self._nucleus(input_ids, scores)
        uniform = torch.stack(
            [torch.rand(scores.shape[-1], generator=generator) for generator in self._generators]
        )
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        return scores + noise.to(scores.device)


class RowText:
    """The text of one output while it grows.

    Args:
        decode: Token ids to text.
        end_ids: Tokens that end a text.
        stop: Texts before which it ends.

    Attributes:
        tokens: Token ids so far, without the one that ended it.
        finish: "stop" once it has ended by itself, else None.
        declined: How likely the model found it that it was not given the answer; None where it cannot tell.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], end_ids: frozenset[int], stop: Sequence[str]
    ) -> None:
        self._decode, self._end_ids, self._stop = decode, end_ids, tuple(stop)
        self.tokens: list[int] = []
        self.finish: FinishReason | None = None
        self.declined: float | None = None
        self._text, self._given = "", 0

    def add(self, token: int) -> None:
        """Takes the next token; after the end nothing changes any more."""
        if self.finish is not None:
            return
        if token in self._end_ids:
            self.finish = "stop"
            return
        self.tokens.append(token)
        self._text = self._decode(self.tokens)
        found = [place for place in (self._text.find(text) for text in self._stop) if place >= 0]
        if found:
            self.finish, self._text = "stop", self._text[: min(found)]

    def text(self) -> str:
        """The text so far, without white space around it or an unfinished character at its end."""
        return self._text[: self._whole()].strip()

    def piece(self, *, last: bool = False) -> str:
        """What can be shown since the last call: nothing that a later token may change or a stop text cut."""
        stable = self._text[: self._whole() if last or self.finish else self._settled()]
        begin = len(self._text) - len(self._text.lstrip())
        shown = stable.rstrip()[begin:]
        piece, self._given = shown[self._given :], max(self._given, len(shown))
        return piece

    def _whole(self) -> int:
        """Length of the text without an unfinished character."""
        end = len(self._text)
        while end > len(self._text) - _LONGEST_CHARACTER and self._text[:end].endswith(_BROKEN):
            end -= 1
        return end

    def _settled(self) -> int:
        """Length of the text that stays: without what may become another character or a stop text."""
        text = self._text[: self._whole()]
        return len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that begins the stop text."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)


class Watch(StoppingCriteria):
    """Follows the rows' texts and says which have ended.

    Args:
        rows: The texts.
        on_step: Called after every token.
        cancelled: Ends everything when it returns True.
    """

    def __init__(
        self, rows: Sequence[RowText], on_step: Callable[[], None], cancelled: Callable[[], bool]
    ) -> None:
        self._rows, self._on_step, self._cancelled = rows, on_step, cancelled

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Token ids [b, t] in, done [b] out."""
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            row.add(token)
        self._on_step()
        everything = self._cancelled()
        done = [everything or row.finish is not None for row in self._rows]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a text, by the model's settings and its tokenizer's."""
    given = model.generation_config.eos_token_id
    known = given if isinstance(given, list) else [given]
    return frozenset(int(token) for token in (*known, tokenizer.eos_token_id) if token is not None)


def decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    """Token ids to text, without tokens that are no text."""

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    return decode
