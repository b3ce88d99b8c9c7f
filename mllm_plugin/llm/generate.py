"""Texts from prompts that hold soft tokens: in batches, or piece by piece while they are made."""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mllm_plugin.llm.decoding import (
    Declining,
    Decoding,
    FinishReason,
    RowText,
    SeededSampling,
    Watch,
    decoder,
    end_ids,
)
from mllm_plugin.llm.models import LoadedLLM
from mllm_plugin.llm.prompt import Batch, Prompt, assemble
from mllm_plugin.llm.reader import MemoryReader

_BATCH_TOKENS = 8192
_running: dict[threading.Thread, threading.Event] = {}  # streams' threads, and what stops each


@dataclass(frozen=True, slots=True)
class Generated:
    """A text that the model wrote.

    Attributes:
        text: Without white space around it.
        tokens: How many tokens the model wrote, without the one that ends a text.
        finish_reason: "stop" when it ended by itself or at a stop text, "length" when it was cut.
        declined: How likely the model found it that it was not given the answer, in [0, 1]; None where it
            was not trained to tell.
    """

    text: str
    tokens: int
    finish_reason: FinishReason
    declined: float | None = None


def generate(
    llm: LoadedLLM,
    prompts: Sequence[Prompt],
    memory: Sequence[tuple[Any, Any]] | None = None,
    *,
    adapter: MemoryReader | None = None,
    lora: bool = True,
    decoding: Decoding | None = None,
    cancelled: threading.Event | None = None,
) -> list[Generated]:
    """Answers prompts, those of like length together.

    Args:
        llm: The model.
        prompts: From `PromptLayout.build`.
        memory: For each prompt what the reader wrote [n, h] and the levels of it [n], n being the prompt's
            soft positions.
        adapter: The reader; needed where a prompt has soft positions.
        lora: Use its changes to the model.
        decoding: Settings.
        cancelled: Stops the model when it is set; what is returned then is unfinished.
    """
    decoding, ended = decoding or Decoding(), cancelled or threading.Event()
    found: dict[int, Generated] = {}
    for rows in _by_length(prompts, decoding.max_new_tokens):
        soft = None if memory is None else [memory[row] for row in rows]
        some = [prompts[row] for row in rows]
        texts = _run(llm, some, soft, adapter, lora, decoding, cancelled=ended.is_set)
        found.update(zip(rows, map(_generated, texts), strict=True))
    return [found[row] for row in range(len(prompts))]


def stream(
    llm: LoadedLLM,
    prompt: Prompt,
    memory: tuple[Any, Any] | None = None,
    *,
    adapter: MemoryReader | None = None,
    lora: bool = True,
    decoding: Decoding | None = None,
    cancelled: threading.Event | None = None,
) -> Generator[str | Generated]:
    """Answers one prompt piece by piece; the last item is the whole.

    The model works in a thread of its own; closing the iterator, or setting `cancelled`, stops it. The other
    arguments are those of `generate`.
    """
    pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()
    ended = cancelled or threading.Event()

    def work() -> None:
        try:
            soft = None if memory is None else [memory]
            settings = decoding or Decoding()
            [row] = _run(llm, [prompt], soft, adapter, lora, settings, pieces.put, ended.is_set)
            pieces.put(row.piece(last=True))
            pieces.put(_generated(row))
        except BaseException as error:
            pieces.put(error)
        finally:
            _running.pop(threading.current_thread(), None)

    thread = threading.Thread(target=work, name="mllm-generate", daemon=True)
    _running[thread] = ended
    thread.start()
    try:
        yield from _until_done(pieces)
    finally:
        ended.set()


@atexit.register
def _stop_all() -> None:
    """Ends streams that nobody reads any more: torch aborts a process that ends while a thread computes."""
    for thread, ended in list(_running.items()):
        ended.set()
        thread.join()


def _until_done(pieces: queue.SimpleQueue[Any]) -> Generator[str | Generated]:
    while True:
        item = pieces.get()
        if isinstance(item, BaseException):
            raise item
        if item:
            yield item
        if isinstance(item, Generated):
            return


def _run(
    llm: LoadedLLM,
    prompts: Sequence[Prompt],
    memory: Sequence[tuple[Any, Any]] | None,
    reader: MemoryReader | None,
    lora: bool,
    decoding: Decoding,
    on_piece: Callable[[str], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[RowText]:
    ends = end_ids(llm.model, llm.tokenizer)
    rows = [RowText(decoder(llm.tokenizer), ends, decoding.stop) for _ in prompts]

    def on_step() -> None:
        if on_piece is not None:
            on_piece(rows[0].piece())

    with llm.lock, _changes(llm, reader if lora else None), torch.inference_mode():
        if not cancelled():
            batch = assemble(llm, prompts, _soft_tokens(reader, memory))
            declining = _declining(llm, reader if lora else None, decoding)
            _call_model(llm, batch, decoding, Watch(rows, on_step, cancelled), ends, declining)
            for row, chance in zip(rows, declining.chances if declining else (), strict=False):
                row.declined = chance
    return rows


def _declining(llm: LoadedLLM, reader: MemoryReader | None, decoding: Decoding) -> Declining | None:
    """For what was trained to decline."""
    if reader is None:
        return None
    first = llm.tokenizer(reader.config.refusal, add_special_tokens=False)["input_ids"][0]
    return Declining(first, decoding.decline_above)


def _call_model(
    llm: LoadedLLM,
    batch: Batch,
    decoding: Decoding,
    watch: Watch,
    ends: frozenset[int],
    declining: Declining | None = None,
) -> None:
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    sampling = [SeededSampling(decoding, len(batch.attention_mask))] if decoding.temperature else []
    pad = llm.tokenizer.pad_token_id
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,  # what is sampled is decided by the noise on the logits
        num_beams=1,
        repetition_penalty=1.0,
        use_cache=True,
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad if pad is not None else min(ends, default=0),
    )
    llm.model.generate(
        inputs_embeds=batch.inputs_embeds,
        attention_mask=batch.attention_mask,
        generation_config=config,
        logits_processor=LogitsProcessorList([*([declining] if declining else []), *sampling]),
        stopping_criteria=StoppingCriteriaList([watch]),
    )


def _changes(llm: LoadedLLM, reader: MemoryReader | None) -> AbstractContextManager[None]:
    """The model with the reader's changes, or without any."""
    return nullcontext() if reader is None else reader.applied(llm.model)


def _soft_tokens(reader: MemoryReader | None, memory: Sequence[tuple[Any, Any]] | None) -> Tensor | None:
    filled = [(vectors, levels) for vectors, levels in memory or () if len(levels)]
    if reader is None or not filled:
        return None
    return torch.cat([reader.soft_tokens(vectors, levels) for vectors, levels in filled])


def _generated(row: RowText) -> Generated:
    return Generated(row.text(), len(row.tokens), row.finish or "length", row.declined)


def _by_length(prompts: Sequence[Prompt], new_tokens: int) -> Iterator[list[int]]:
    """Rows in batches of a bounded number of padded positions."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]), reverse=True)
    while order:
        size = max(1, _BATCH_TOKENS // (len(prompts[order[0]]) + new_tokens))
        rows, order = order[:size], order[size:]
        yield rows
