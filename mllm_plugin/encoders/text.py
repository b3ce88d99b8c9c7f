"""What an encoder says of tokens, with words where it has none; and which texts mean nothing to it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mllm_plugin.encoders.base import TextEncoder
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.text.chunking import TokenOffsets

_RUN = re.compile(r"[0-9A-Za-z+/=]+")
_HEX = re.compile(r"[0-9a-fA-F]{2,}")
_CHANGE = re.compile(r"(?<=[0-9])(?=[A-Za-z])|(?<=[A-Za-z])(?=[0-9])|(?<=[a-z])(?=[A-Z])")
_LEAST_NOISE = 32  # characters; less may be an identifier that somebody asks for
_NOISE_SHARE = 0.75
_UNREAD_SHARE = 0.75
_LONGEST_WORD = 40
_SHORTEST_CODE = 16
_BATCH = 64
_CHANGE_SHARE = 0.3


def token_offsets(encoder: TextEncoder) -> TokenOffsets:
    """What cuts a text into the encoder's tokens."""
    return encoder.token_offsets


def token_limit(encoder: TextEncoder, chunk_tokens: int) -> int:
    """Tokens per chunk: as configured, but no more than the encoder reads."""
    return chunk_tokens if encoder.max_tokens is None else min(chunk_tokens, encoder.max_tokens)


def document_batches(encoder: TextEncoder, texts: Sequence[str]) -> Sequence[Sequence[int]]:
    """Rows of texts that are best encoded together.

    Raises:
        InvalidInputError: The encoder left texts out or named them twice.
    """
    batches = encoder.document_batches(texts)
    if sorted(row for batch in batches for row in batch) != list(range(len(texts))):
        raise InvalidInputError(
            f"the encoder's document_batches does not name each of {len(texts)} texts once"
        )
    return batches


def window_spans(
    encoder: TextEncoder, texts: Sequence[str], counts: Sequence[int]
) -> list[Sequence[tuple[int, int]]]:
    """Character spans of each chunk's windows; all of it for each where the encoder cannot tell.

    Args:
        counts: How many windows each chunk has.
    """
    found = encoder.window_spans(texts)
    return [
        spans[:count] if len(spans) >= count else [(0, len(text))] * count
        for spans, text, count in zip(found, texts, counts, strict=True)
    ]


def meaningless(encoder: TextEncoder, texts: Sequence[str]) -> list[bool]:
    """Which texts have no meaning that an embedding could hold: noise, and what the encoder cannot read.

    Their embedding is zero, so that only their words lead to them.
    """
    doubtful = [text for text in texts if not text.isascii()]  # no tokenizer is without the letters of ASCII
    unknown = dict(zip(doubtful, encoder.cannot_read(doubtful), strict=True)) if doubtful else {}
    return [is_noise(text) or unknown.get(text, False) for text in texts]


def is_unread(text: str, ids: Sequence[int], spans: Sequence[tuple[int, int]], unknown: int | None) -> bool:
    """Whether most of a text, blanks aside, lies in unknown tokens.

    Args:
        text: As the tokenizer got it.
        ids, spans: Its tokens and where they lie.
        unknown: Id of the unknown token; None where there is none.
    """
    widths = [len(text[start:end].strip()) for start, end in spans]
    lost = sum(width for token, width in zip(ids, widths, strict=True) if token == unknown)
    return lost > 0 and lost >= _UNREAD_SHARE * sum(widths)


def is_noise(text: str) -> bool:
    """Whether a text is hardly more than hex digits, base64, or runs of letters that no language has."""
    solid = sum(map(len, text.split()))
    if solid < _LEAST_NOISE:
        return False
    runs = [run for run in _RUN.findall(text) if 10 * (run.count("+") + run.count("/")) <= len(run)]
    long = [run for run in runs if len(run) > _LONGEST_WORD]
    digits = [run for run in runs if len(run) <= _LONGEST_WORD and _HEX.fullmatch(run)]
    mixed = [run for run in runs if _SHORTEST_CODE <= len(run) <= _LONGEST_WORD and not _HEX.fullmatch(run)]
    codes = (long, digits if _are_hexadecimal("".join(digits)) else (), mixed if _are_mixed(mixed) else ())
    return sum(len(run) for part in codes for run in part) >= max(_LEAST_NOISE, _NOISE_SHARE * solid)


def _are_hexadecimal(digits: str) -> bool:
    """Whether they are neither words like "added" nor a table of numbers, with an e here and there."""
    letters = [digit.lower() for digit in digits if digit.isalpha()]
    return len(set(letters)) >= 4 and len(digits) - len(letters) >= 0.3 * len(digits)


def _are_mixed(runs: Sequence[str]) -> bool:
    """Whether they change between digits, capitals and small letters more often than names do."""
    changes = sum(len(_CHANGE.findall(run)) for run in runs)
    return changes >= _CHANGE_SHARE * sum(map(len, runs))
