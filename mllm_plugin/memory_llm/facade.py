"""`MemoryLLM`: a language model that answers from a memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

from tqdm import tqdm

from mllm_plugin.calls.twins import like
from mllm_plugin.errors import InvalidInputError, InvalidTypeError
from mllm_plugin.llm import DEFAULT_LLM, LoadedLLM, MemoryReader, PromptLayout, ReaderConfig, load_llm
from mllm_plugin.llm.generate import Generated, generate, stream
from mllm_plugin.llm.starts import KeptStarts
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.memory.checks import SCOPE, Scope, scope_of
from mllm_plugin.memory_llm.answer import Answer, ReadReport, Usage
from mllm_plugin.memory_llm.config import MemoryLLMConfig, settings_of
from mllm_plugin.memory_llm.nodes import FACES, WORDS
from mllm_plugin.memory_llm.plan import Plan, Planner
from mllm_plugin.memory_llm.question import Question, Turns, questions_of, turns_of
from mllm_plugin.memory_llm.reader_choice import DEFAULT, choose_reader
from mllm_plugin.memory_llm.relevance import chance_of_nothing, worth_reading
from mllm_plugin.memory_llm.streams import AnswerStream, AsyncAnswerStream
from mllm_plugin.memory_llm.writing import Writer
from mllm_plugin.types import Namespace, Recall

_WRITTEN_AT_ONCE = 64  # chunks; an interrupted run loses no more


class MemoryLLM:
    """Answers questions from a memory; open one with `MemoryLLM.open`.

    Threads may share one; the model works for one at a time.

    Attributes:
        memory: What it answers from.
        llm: The language model.
        adapter: The reader, which makes it write and read vectors; None when it reads text only.
        config: Settings of every call, as far as the call has no others.
        starts: What the model remembers of chunks that it read as text lately.
    """

    def __init__(
        self,
        memory: MemoryIndex,
        llm: LoadedLLM,
        adapter: MemoryReader | None = None,
        config: MemoryLLMConfig | None = None,
        *,
        text_instead: bool = False,
    ) -> None:
        self.memory, self.llm, self.adapter = memory, llm, adapter
        self._writer = None if adapter is None else Writer(memory, llm, adapter)
        self.config = config or MemoryLLMConfig()
        self.starts = KeptStarts(self.config.hot_bytes, memory.live_chunks)
        memory.watch(self.starts)
        self._text_instead = text_instead
        self._settings({})  # what cannot be done is said now

    @classmethod
    def open(
        cls,
        memory: MemoryIndex,
        *,
        model: str | Path | LoadedLLM = DEFAULT_LLM,
        adapter: str | Path | MemoryReader | None = DEFAULT,
        config: MemoryLLMConfig | None = None,
        device: str | None = None,
        dtype: Any = None,
        progress: bool = False,
    ) -> MemoryLLM:
        """Loads a model and its reader for a memory.

        Args:
            memory: An open memory, with its encoder.
            model: Any causal language model by name, folder or GGUF file, see `load_llm`; or a loaded one.
            adapter: "default" for the reader that comes with the package; where there is none for this
                model, a warning says so and the model reads text only. None for text only, a folder with a
                reader, or a `MemoryReader`.
            config: Settings.
            device: "cpu", "cuda", …; CUDA when there is one.
            dtype: A torch dtype or its name; float32 on the CPU and bfloat16 elsewhere when left out.
            progress: Say on stderr when a GGUF file is dequantised.

        Raises:
            ModelNotFoundError: No local place has the model and the hub cannot be asked.
            AdapterMismatchError: The reader was trained for another model.
            NotFoundError: The folder holds no reader.
            InvalidInputError: A setting is not acceptable.
        """
        if not isinstance(memory, MemoryIndex):
            raise InvalidTypeError(f"memory must be a MemoryIndex, got {type(memory).__name__}")
        if config is not None and not isinstance(config, MemoryLLMConfig):
            raise InvalidTypeError(f"config must be a MemoryLLMConfig, got {type(config).__name__}")
        llm = (
            model
            if isinstance(model, LoadedLLM)
            else load_llm(model, device=device, dtype=dtype, progress=progress)
        )
        chosen = choose_reader(adapter, llm)
        return cls(memory, llm, chosen, config, text_instead=adapter == DEFAULT and chosen is None)

    def __deepcopy__(self, memo: Any) -> MemoryLLM:
        """Itself: copies share the model and the memory."""
        return self

    def __reduce__(self) -> Any:
        raise InvalidTypeError(
            f"a MemoryLLM holds a loaded language model and cannot be pickled; open it in the process that "
            f"uses it: MemoryLLM.open(memory, model={self.llm.name!r})"
        )

    # -- answering

    def answer(
        self,
        question: Question,
        *,
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        exclude_labels: Sequence[str] = (),
        **settings: Any,
    ) -> Answer:
        """Answers a question.

        Args:
            question: Text, or the messages of a chat, `{"role": "user" | "assistant", "content": …}`, of
                which the last is the user's and a first one may be the system's; the memory is searched by
                the last one, or by its "query" where it has one.
            namespace: Where to look.
            prefix: Look in every namespace below `namespace` too.
            filter: Metadata condition, e.g. `{"year": {"$gte": 2020}}`.
            exclude_labels: Documents with one of these labels are left out.
            settings: Fields of `MemoryLLMConfig` for this call.

        Raises:
            InvalidInputError: The question is empty or does not fit the model; a setting is not acceptable.
            FilterError: The filter is malformed.
        """
        scope = scope_of(namespace, prefix, filter, exclude_labels)
        return self._answers([question], scope, settings, Event())[0]

    def answer_batch(
        self,
        questions: Sequence[Question],
        *,
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        exclude_labels: Sequence[str] = (),
        **settings: Any,
    ) -> list[Answer]:
        """Several answers at once: searched and generated in batches, the same as one by one."""
        scope = scope_of(namespace, prefix, filter, exclude_labels)
        return self._answers(questions, scope, settings, Event())

    def stream(
        self,
        question: Question,
        *,
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        exclude_labels: Sequence[str] = (),
        **settings: Any,
    ) -> AnswerStream:
        """Answers a question piece by piece; the stream has the sources at once, the answer at its end."""
        scope = scope_of(namespace, prefix, filter, exclude_labels)
        config = self._settings(settings)
        [plan] = self._plans([turns_of(question)], scope, config)
        closed = Event()
        if plan.unknown is not None:
            pieces = _piece_by_piece(self._refusal())
        else:
            pieces = stream(self.llm, plan.prompt, plan.memory, **self._generation(config), cancelled=closed)
        return AnswerStream(plan, pieces, partial(self._answer, config.decline_above), closed)

    @like(answer)
    async def aanswer(self, question: Question, **options: Any) -> Answer:
        """`answer` without blocking the event loop; cancelling it stops the model."""
        return (await self.aanswer_batch([question], **options))[0]

    @like(answer_batch)
    async def aanswer_batch(self, questions: Sequence[Question], **options: Any) -> list[Answer]:
        """`answer_batch` without blocking the event loop; cancelling it stops the model."""
        scope = scope_of(**{name: options.pop(name, default) for name, default in SCOPE.items()})
        cancelled = Event()
        try:
            return await asyncio.to_thread(self._answers, questions, scope, options, cancelled)
        finally:
            cancelled.set()

    @like(stream)
    def astream(self, question: Question, **options: Any) -> AsyncAnswerStream:
        """`stream` without blocking the event loop."""
        return AsyncAnswerStream(lambda: self.stream(question, **options))

    # -- writing ahead

    def read_index(
        self,
        *,
        namespace: Namespace | str = (),
        prefix: bool = False,
        filter: Mapping[str, Any] | None = None,
        progress: bool = False,
    ) -> ReadReport:
        """Writes the reading vectors of all live chunks, so that no answer waits for them.

        What is written already is left as it is, so that an interrupted run goes on where it was. Masked
        documents are left out. Every `remove` empties the place where the vectors are kept.

        Args:
            namespace: Whose chunks.
            prefix: Also those of every namespace below.
            filter: Metadata condition.
            progress: Show a bar on stderr.

        Raises:
            InvalidInputError: There is no reader, or the memory keeps nothing.
        """
        if self._writer is None:
            raise InvalidInputError(
                f"a reader writes the reading vectors, and there is none for {self.llm.name}; train one with "
                f"`mllm train-llm`"
            )
        started, chunks, written = time.perf_counter(), 0, 0
        found = self.memory.chunks(namespace=namespace, prefix=prefix, filter=filter)
        with tqdm(desc="read", unit=" chunks", disable=not progress) as bar:
            while batch := list(islice(found, _WRITTEN_AT_ONCE)):
                written += self._writer.ahead(
                    {(chunk.namespace, chunk.text): chunk.chunk_id for chunk in batch}
                )
                chunks += len(batch)
                bar.update(len(batch))
        return ReadReport(chunks, written, time.perf_counter() - started)

    async def aread_index(self, **options: Any) -> ReadReport:
        """`read_index` without blocking the event loop."""
        return await asyncio.to_thread(partial(self.read_index, **options))

    # -- parts

    def _answers(
        self,
        questions: Sequence[Question],
        scope: Scope,
        settings: Mapping[str, Any],
        cancelled: Event,
    ) -> list[Answer]:
        config = self._settings(settings)
        plans = self._plans(questions_of(questions), scope, config)
        asked = [plan for plan in plans if plan.unknown is None]
        prompts, memory = [plan.prompt for plan in asked], [plan.memory for plan in asked]
        texts = iter(
            generate(self.llm, prompts, memory, **self._generation(config), cancelled=cancelled)
            if asked
            else ()
        )
        given = [self._refusal() if plan.unknown is not None else next(texts) for plan in plans]
        return [self._answer(config.decline_above, *pair) for pair in zip(plans, given, strict=True)]

    def _generation(self, config: MemoryLLMConfig) -> dict[str, Any]:
        """How the model writes."""
        self.starts.written()  # another process may have
        starts = self.starts if config.hot_bytes else None
        return {
            "adapter": self.adapter,
            "lora": _lora(config),
            "decoding": config.decoding,
            "starts": starts,
        }

    def _refusal(self) -> Generated:
        """What is said where the model is not asked: the words that a reader learns for it."""
        own = self.adapter.config if self.adapter else ReaderConfig(llm="", llm_name="", hidden=1)
        return Generated(own.refusal, 0, "stop")

    def _settings(self, given: Mapping[str, Any]) -> MemoryLLMConfig:
        """Settings of a call, with a mode that is no longer "auto"."""
        config = settings_of(self.adapter.config.reading if self.adapter else {}, self.config, given)
        if config.mode in ("text", "none"):  # how the reader reads does not matter
            config = settings_of({"mode": config.mode}, self.config, given)
        if self.adapter is None and config.mode in ("memory", "both") and not self._text_instead:
            raise InvalidInputError(
                f"mode {config.mode!r} needs a reader for {self.llm.name}; pass one to MemoryLLM.open, or "
                f"use mode 'text'"
            )
        if config.mode == "none":
            asked_for = "system" in {*self.config.model_fields_set, *given}
            return config.model_copy(update={"system": config.system if asked_for else ""})
        if self.adapter is None:
            return config.model_copy(update={"mode": "text"})
        return self._automatic(config, {*self.config.model_fields_set, *given})

    def _automatic(self, config: MemoryLLMConfig, chosen: set[str]) -> MemoryLLMConfig:
        """What mode "auto" stands for with this reader, except for what was chosen."""
        if self.adapter is None or config.mode != "auto":
            return config
        meant = self.adapter.config.auto
        return config.model_copy(
            update={name: value for name, value in meant.items() if name == "mode" or name not in chosen}
        )

    def _plans(self, turns: Sequence[Turns], scope: Scope, config: MemoryLLMConfig) -> list[Plan]:
        planner = Planner(PromptLayout(self.llm.tokenizer, config.system), self.llm.context)
        found = self._recall([turn.query for turn in turns], scope, config)
        recalls = [worth_reading(recall, config.min_relevance) for recall in found]
        written: Sequence[Recall | None] = [None] * len(recalls)
        if self._writer is not None and config.mode in ("memory", "both"):
            written = self._writer.read(recalls, config)
        given = zip(turns, found, recalls, written, strict=True)
        return [
            planner.plan(turn, recall, config, read)
            if recall.hits or config.mode == "none" or not config.min_relevance
            else Plan.unread(chance_of_nothing(whole))
            for turn, whole, recall, read in given
        ]

    def _recall(self, queries: Sequence[str], scope: Scope, config: MemoryLLMConfig) -> list[Recall]:
        """What the memory has for each query; windows serve to cut text, too."""
        if config.mode == "none":
            return [Recall(query, (), {}) for query in queries]
        as_vectors = config.nodes if self._writer is not None and config.mode in ("memory", "both") else 0
        nodes = {
            "nodes": max(config.labels, as_vectors),
            "words": WORDS if config.labels else 0,
            "faces": FACES if as_vectors else 0,
        }
        how = {"k": config.k, "mode": config.search, "beam_width": config.beam_width}
        return self.memory.recall_batch(queries, **how, **nodes, **vars(scope))

    def _answer(self, decline_above: float, plan: Plan, generated: Generated) -> Answer:
        unknown = generated.declined if plan.unknown is None else plan.unknown
        usage = Usage(
            input_tokens=len(plan.prompt),
            memory_tokens=plan.prompt.memory_tokens,
            text_tokens=plan.text_tokens,
            output_tokens=generated.tokens,
        )
        return Answer(
            generated.text,
            tuple(plan.sources()),
            usage,
            plan.mode,
            generated.finish_reason,
            plan.dropped,
            self._readable(plan),
            None if unknown is None else plan.unknown is None and unknown <= decline_above,
            unknown,
        )

    def _readable(self, plan: Plan) -> str:
        """The prompt for people, the memory block as its number of tokens."""
        prompt, decode = plan.prompt, self.llm.tokenizer.decode
        if not prompt.memory_tokens:
            return decode(list(prompt.ids))
        head, tail = prompt.ids[: prompt.memory_at], prompt.ids[prompt.memory_at :]
        return f"{decode(list(head))}[{prompt.memory_tokens} memory tokens]{decode(list(tail))}"


def _piece_by_piece(whole: Generated) -> Generator[str | Generated]:
    yield whole.text
    yield whole


def _lora(config: MemoryLLMConfig) -> bool:
    return config.mode in ("memory", "both") if config.lora is None else config.lora
