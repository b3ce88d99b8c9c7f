"""The one prompt layout, for answering and for training.

    system line
    user: [memory block][passages, a blank line after each][question]
    assistant:

The memory block is a run of soft positions, grouped coarse to fine (see `memory_order`); it lies inside the
last user turn, after earlier turns of a chat. A `Prompt` holds token ids and where the block goes; `assemble`
puts ids and projected embeddings together.

Texts are put into the layout after it was rendered, and encoded so that they hold no token that steers the
model (`plain_text`) and no mark of a turn (`fence`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.llm.fence import Fence
from mllm_plugin.llm.models import LoadedLLM
from mllm_plugin.llm.plain_text import PRIVATE, cleaned, plain_tokenizer
from mllm_plugin.shapes import Bool, Float, Int

DEFAULT_SYSTEM = "Answer with a few words from the memory."
_PLACE = re.compile(f"{PRIVATE[0]}(\\d+){PRIVATE[1]}")
_NAME = re.compile(f"{PRIVATE[0]}t\\d+{PRIVATE[1]}")
_SEPARATOR = "\n\n"

Message = Mapping[str, str]
_EVERY_ROLE = [{"role": role, "content": role} for role in ("system", "user", "assistant")]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids and the place of the memory block.

    Attributes:
        ids: Tokens of the text, without the block.
        memory_at: How many of them come before the block.
        memory_tokens: Soft positions of the block.
    """

    ids: tuple[int, ...]
    memory_at: int = 0
    memory_tokens: int = 0

    def __len__(self) -> int:
        """Tokens and soft positions together."""
        return len(self.ids) + self.memory_tokens


class PromptLayout:
    """Renders prompts for one model.

    Args:
        tokenizer: The model's; its chat template is used, a plain layout where it has none.
        system: The system line; "" for none.

    Raises:
        InvalidInputError: The chat template is broken.
    """

    def __init__(self, tokenizer: Any, system: str = DEFAULT_SYSTEM) -> None:
        self.tokenizer, self.system = tokenizer, system
        self._plain = plain_tokenizer(tokenizer)
        self._fence = Fence(())
        self._fence = Fence(self._own_pieces())

    def _own_pieces(self) -> Iterator[str]:
        """What the layout itself writes where no token of its own marks it."""
        self._render((), "")  # what cannot be rendered at all is said now
        try:
            rendered, _ = self._render(_EVERY_ROLE, "")
        except InvalidInputError:
            rendered, _ = self._render((), "")
        for piece in _PLACE.split(rendered)[::2]:
            yield from _NAME.split(self._plain.own(piece))

    def build(
        self,
        question: str,
        *,
        passages: Sequence[str] = (),
        memory_tokens: int = 0,
        history: Sequence[Message] = (),
    ) -> Prompt:
        """Renders a prompt.

        Args:
            question: The user's words.
            passages: Texts spelled out before it, best first.
            memory_tokens: Soft positions of the memory block.
            history: Earlier turns, `{"role": "user" | "assistant", "content": …}`, oldest first; a "system"
                message at the beginning takes the place of the system line. Neighbours of one role become one
                message.

        Raises:
            InvalidInputError: The model's chat template cannot render these turns.
        """
        user = _SEPARATOR.join(cleaned(text).strip() for text in [*passages, question])
        rendered, texts = self._render(history, self._fence(user))
        head, found, tail = rendered.partition(_place(len(texts) - 1))
        if not memory_tokens:
            return Prompt(tuple(self._ids(rendered, texts, first=True)))
        if not found:
            raise InvalidInputError("the model's chat template does not show the user's message as it is")
        before = self._ids(head, texts, first=True)
        return Prompt((*before, *self._ids(found + tail, texts, first=False)), len(before), memory_tokens)

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return self._plain.count(self._fence(text))

    def _render(self, history: Sequence[Message], user: str) -> tuple[str, list[str]]:
        """The prompt with a place in place of every text, and the texts; the last is the user's."""
        texts: list[str] = []

        def placed(text: str) -> str:
            if not (inside := text.strip()):
                return text
            texts.append(inside)
            return text.replace(inside, _place(len(texts) - 1), 1)

        turns = [{"role": message["role"], "content": placed(self._outside(message))} for message in history]
        if self.system and not (turns and turns[0]["role"] == "system"):
            turns.insert(0, {"role": "system", "content": placed(cleaned(self.system))})
        texts.append(user)
        turns = merged([*turns, {"role": "user", "content": _place(len(texts) - 1)}])
        return (self._template(turns) if self.tokenizer.chat_template else _plain_layout(turns)), texts

    def _outside(self, message: Message) -> str:
        """What a message says; the system's may say what it wants."""
        text = cleaned(message["content"])
        return text if message["role"] == "system" else self._fence(text)

    def _template(self, turns: list[dict[str, str]]) -> str:
        """By the model's chat template: as it is, or in a form that more templates take."""
        user_first = _user_first(turns)
        problem: Exception | None = None
        for form in (turns, user_first, _without_system(user_first)):
            try:
                return self.tokenizer.apply_chat_template(form, tokenize=False, add_generation_prompt=True)
            except Exception as error:  # the template's own: many refuse a system line or an assistant first
                problem = problem or error
        raise InvalidInputError(
            f"the model's chat template cannot render a chat of {', '.join(turn['role'] for turn in turns)}: "
            f"{type(problem).__name__}: {problem}. Give the tokenizer another chat_template, or None for a "
            f"plain layout"
        ) from problem

    def _ids(self, rendered: str, texts: Sequence[str], *, first: bool) -> list[int]:
        pieces = [
            texts[int(piece)] if odd % 2 else self._plain.own(piece)
            for odd, piece in enumerate(_PLACE.split(rendered))
        ]
        wrapped = first and not self.tokenizer.chat_template  # a chat template writes its own
        return self._plain.ids("".join(pieces), wrapped=wrapped)


def _place(number: int) -> str:
    """What stands for a text while the chat template is at work, so that the text can do nothing to it."""
    return f"{PRIVATE[0]}{number}{PRIVATE[1]}"


def merged(turns: Sequence[Message]) -> list[dict[str, str]]:
    """Messages with neighbours of one role as one, since many chat templates take turns only."""
    found: list[dict[str, str]] = []
    for turn in turns:
        if found and found[-1]["role"] == turn["role"]:
            texts = [found[-1]["content"], turn["content"]]
            found[-1] = {**found[-1], **turn, "content": _SEPARATOR.join(filter(None, texts))}
        else:
            found.append(dict(turn))
    return found


def _user_first(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """With an empty message of the user before an assistant that begins."""
    at = int(turns[0]["role"] == "system")
    return (
        turns if turns[at]["role"] == "user" else [*turns[:at], {"role": "user", "content": ""}, *turns[at:]]
    )


def _without_system(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """With the system line at the beginning of the user's first message."""
    if turns[0]["role"] != "system":
        return turns
    return merged([{**turns[0], "role": "user"}, *turns[1:]])


def _plain_layout(turns: Sequence[Message]) -> str:
    """For models without a chat template."""
    names = {"user": "Question: ", "assistant": "Answer: "}
    return "\n\n".join(f"{names.get(turn['role'], '')}{turn['content']}" for turn in turns) + "\n\nAnswer:"


def memory_order(levels: ArrayLike, ranks: ArrayLike, starts: ArrayLike | None = None) -> NDArray[np.int64]:
    """The order of a memory block's embeddings.

    Args:
        levels: Level of each embedding [n]; high levels come first.
        ranks: For nodes and chunks their rank in their level, for windows the rank of their chunk [n]; 0 is
            best and comes first.
        starts: Offset of each in its document [n], which orders the windows of a chunk.

    Returns:
        Indices [n].
    """
    levels, ranks = np.asarray(levels), np.asarray(ranks)
    offsets = np.zeros(len(levels)) if starts is None else np.asarray(starts)
    return np.lexsort((offsets, ranks, -levels))


@dataclass(frozen=True, slots=True)
class Batch:
    """What a model takes; b prompts of up to t positions, padded on the left.

    Attributes:
        inputs_embeds: [b, t, h].
        attention_mask: [b, t], 1 where a prompt is.
    """

    inputs_embeds: Float[Tensor, "b t h"]
    attention_mask: Int[Tensor, "b t"]


def assemble(llm: LoadedLLM, prompts: Sequence[Prompt], memory: Float[Tensor, "n h"] | None = None) -> Batch:
    """Puts the model's own embeddings of the text and the soft tokens together.

    Args:
        llm: The model.
        prompts: b prompts.
        memory: Soft tokens of all prompts, one prompt after the other [sum of memory_tokens, h].

    Raises:
        InvalidInputError: There are more or fewer soft tokens than the prompts have positions for.
    """
    length = max(map(len, prompts))
    ids = np.zeros((len(prompts), length), dtype=np.int64)
    live, soft = np.zeros(ids.shape, dtype=bool), np.zeros(ids.shape, dtype=bool)
    for row, prompt in enumerate(prompts):
        begin = length - len(prompt)
        block = begin + prompt.memory_at
        live[row, begin:] = True
        soft[row, block : block + prompt.memory_tokens] = True
        ids[row, live[row] & ~soft[row]] = prompt.ids
    embeds = _with_memory(llm.embeddings(torch.from_numpy(ids).to(llm.device)), soft, memory)
    return Batch(embeds, torch.from_numpy(live).to(llm.device).long())


def _with_memory(
    embeds: Float[Tensor, "b t h"], soft: Bool[np.ndarray, "b t"], memory: Float[Tensor, "n h"] | None
) -> Float[Tensor, "b t h"]:
    """Soft tokens in their places; gradients flow to them."""
    given = 0 if memory is None else len(memory)
    if given != soft.sum():
        raise InvalidInputError(f"expected {int(soft.sum())} soft tokens for the prompts, got {given}")
    if memory is None or not given:
        return embeds
    where = torch.from_numpy(soft).to(embeds.device).unsqueeze(-1)
    return embeds.masked_scatter(where, memory.to(device=embeds.device, dtype=embeds.dtype))
