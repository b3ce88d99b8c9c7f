"""Fixed parts of the prompts that a reader is trained with, as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.llm import PromptLayout

Ids = NDArray[np.int64]

PARTS = {
    "repeat": "Repeat the text of the memory.",
    "continue": "Continue the text of the memory.",
    "fill": "Fill in the blank: ",
    "blank": " ____",
    "what": " what",
    "year": " which year",
    "many": " how many",
    "mark": "?",
    "gap": "\n\n",
    "unknown": "unknown",
}
_WORD_STARTS = ("Ġ", "Ċ", "▁")


@dataclass
class Prompts:
    """Fixed parts of prompts as ids: `PARTS`, and head, tail, end and word starts of the model."""

    parts: Mapping[str, Ids]
    word_starts: frozenset[int]

    @classmethod
    def of(cls, parts: Mapping[str, Sequence[int]]) -> Prompts:
        """From lists of ids."""
        words = frozenset(parts["word_starts"])
        return cls(
            {name: np.array(ids, np.int64) for name, ids in parts.items() if name != "word_starts"}, words
        )

    def __getitem__(self, name: str) -> Ids:
        return self.parts[name]


def prompt_parts(tokenizer: Any) -> dict[str, list[int]]:
    """What `Prompts.of` takes, in the one layout that answering uses.

    Raises:
        InvalidInputError: The tokenizer has no token that ends a text.
    """
    if tokenizer.eos_token_id is None:
        raise InvalidInputError(
            "the model's tokenizer has no token that ends a text (eos_token); set one, so that a reader can "
            "learn where answers end"
        )
    layout = PromptLayout(tokenizer)
    one, other = (layout.build(question, memory_tokens=1) for question in ("Q", "7"))
    pairs = zip(reversed(one.ids), reversed(other.ids), strict=False)
    after = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))  # whatever the question is
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return {
        **{name: tokenizer(text, add_special_tokens=False)["input_ids"] for name, text in PARTS.items()},
        "head": list(one.ids[: one.memory_at]),
        "tail": list(one.ids[len(one.ids) - after :]),
        "end": [tokenizer.eos_token_id],
        "word_starts": [n for n, word in enumerate(words) if word.startswith(_WORD_STARTS)],
    }
