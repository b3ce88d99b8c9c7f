"""Makes the memory adapter that the package ships for the default encoder and language model.

    python benchmarks/train_adapter.py --data DIR --out mllm_plugin/trained/NAME

Trains on `train` questions of SQuAD and CUAD; a few articles and contracts of them are held out and chose the
best step. `dev` stays untouched for memory_llm.py. `--text-only` trains the rival instead: the same LLM with
the same LoRA rank, text in its prompt and no memory tokens.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from functools import reduce
from pathlib import Path

import numpy as np
from beir import read_corpus, read_qrels, read_queries
from cached_encoder import CachedEncoder
from common import cached_encoder, cached_memory, machine, parser

from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from mllm_plugin.encoders.resolve import DEFAULT_ENCODER
from mllm_plugin.llm.adapter import Adapter
from mllm_plugin.llm.models import LoadedLLM, load_llm
from mllm_plugin.training.llm.answers import score_answers
from mllm_plugin.training.llm.collect import Labelled, collect_examples, encode_windows
from mllm_plugin.training.llm.config import LLMTrainingConfig
from mllm_plugin.training.llm.draw import Drawer
from mllm_plugin.training.llm.examples import Examples
from mllm_plugin.training.llm.loop import fit_adapter, new_adapter
from mllm_plugin.training.llm.run import write_curves
from mllm_plugin.training.llm.start import Spoken, spoken

WORDS = (16, 8, 4)  # tokens per window of words, beside the memory's own windows of 16 states
_HELD_OUT = {"squad": 3, "cuad": 20}  # articles and contracts
_GROUP = {"squad": "title", "cuad": "group"}
_WORDS = {"medquad": 4000, "cuad": 3000}  # further documents whose words the projector's start reads
_LONGEST_ANSWER = 160  # characters


def labelled(name: str, data: Path, seed: int) -> list[Labelled]:
    """`train` questions of a set that have a short answer, some groups of them held out."""
    judged = read_qrels(data / name)
    rows = [
        (query, row)
        for query, row in read_queries(data / name, "train").items()
        if any(len(one) <= _LONGEST_ANSWER for one in answers_of(row))
    ]
    groups = sorted({row[_GROUP[name]] for _, row in rows})
    kept_back = set(np.random.default_rng(seed).permutation(groups)[: _HELD_OUT[name]].tolist())
    return [
        Labelled(
            row["text"],
            tuple(one for one in answers_of(row) if len(one) <= _LONGEST_ANSWER),
            tuple(judged.get(query, {})),
            row[_GROUP[name]] in kept_back,
        )
        for query, row in rows
    ]


def answers_of(row: dict) -> list[str]:
    """What a question is answered with: the words of the text, as CUAD's clauses spell them out."""
    return row.get("clauses") or row.get("answers") or []


def word_encoders() -> dict[str, HuggingFaceEncoder]:
    """The default encoder with windows of its words in place of its states."""
    return {
        f"words-{size}": HuggingFaceEncoder(DEFAULT_ENCODER, window_tokens=size, window_layer=0)
        for size in WORDS
    }


def examples_of(name: str, options: Namespace, encoder: CachedEncoder) -> Examples:
    """The questions of a set with what its memory recalls; made once and kept in the cache."""
    folder = options.cache / "adapter" / f"{name}-{options.seed}"
    if not (folder / "examples.json").is_file():
        questions = labelled(name, options.data, options.seed)
        memory = cached_memory(name, lambda: read_corpus(options.data / name), encoder, options.cache)
        with memory:
            found = collect_examples(memory, questions, kinds=word_encoders())
        found.documents = []  # public sets, nobody's own documents
        found.save(folder)
        known = sum(one.chunk >= 0 for one in found.questions)
        print(f"{name}: {len(questions)} questions, {known} answers recalled", file=sys.stderr)
    return Examples.load(folder)


def further_words(options: Namespace, llm: LoadedLLM, encoder: CachedEncoder) -> Spoken:
    """Windows of all kinds of texts from other sets, with their words; SQuAD is left out for its `dev`."""
    texts = [text for name, count in _WORDS.items() for text in drawn_texts(name, count, options)]
    parts = [
        spoken(texts, encode_windows(one, texts, one.dim), None, llm, size=size, offsets=one.token_offsets)
        for size, one in ((16, encoder), *((one.window_tokens, one) for one in word_encoders().values()))
    ]
    return reduce(Spoken.joined, parts)


def drawn_texts(name: str, count: int, options: Namespace) -> list[str]:
    """The beginnings of so many documents of a set."""
    rng = np.random.default_rng(options.seed)
    documents = [one.text for one in read_corpus(options.data / name)]
    return [" ".join(documents[one].split()[:90]) for one in rng.permutation(len(documents))[:count]]


def settings(options: Namespace) -> LLMTrainingConfig:
    """The configuration of a run."""
    given = {name: getattr(options, name) for name in ("steps", "groups", "evaluate_every", "seed")}
    if options.text_only:
        given["text_steps"] = options.steps
    given |= {"evaluate_questions": options.questions, **json.loads(options.config)}
    return LLMTrainingConfig.model_validate(given)


def fresh_adapter(
    options: Namespace, llm: LoadedLLM, examples: Examples, config: LLMTrainingConfig, encoder: CachedEncoder
) -> Adapter:
    """An adapter with a started projector, which is kept in the cache."""
    folder = options.cache / "adapter" / f"projector-{options.seed}-{config.start_steps}-{int(options.words)}"
    if not (folder / "adapter.json").is_file():
        more = further_words(options, llm, encoder) if options.words and config.start_steps else None
        found = new_adapter(llm, examples, config, offsets=encoder.token_offsets, more=more, progress=True)
        found.save(folder)
    found = Adapter.load(folder)
    return Adapter(found.config, found.projector)


def started_from(folder: Path | None, fresh: Adapter) -> Adapter:
    """The fresh projector with LoRA weights that were trained before."""
    if folder is None:
        return fresh
    return Adapter(fresh.config, fresh.projector, Adapter.load(folder).lora_tensors())


def main() -> None:
    options = parser("Train the memory adapter that is shipped.")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--sets", nargs="+", default=["squad"])
    options.add_argument("--text-only", action="store_true", help="train the rival")
    options.add_argument("--start", type=Path, help="adapter whose LoRA weights are trained further")
    options.add_argument("--words", action="store_true", help="start the projector with further texts")
    options.add_argument("--steps", type=int, default=600)
    options.add_argument("--groups", type=int, default=2)
    options.add_argument("--evaluate-every", type=int, default=50)
    options.add_argument("--questions", type=int, default=80, help="held-out questions per measurement")
    options.add_argument("--scored", type=int, default=100, help="held-out questions answered at the end")
    options.add_argument("--config", default="{}", help="further settings of LLMTrainingConfig as JSON")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    encoder = cached_encoder(given.cache)
    examples = reduce(Examples.joined, (examples_of(name, given, encoder) for name in given.sets))
    llm, config = load_llm(), settings(given)
    adapter = started_from(given.start, fresh_adapter(given, llm, examples, config, encoder))
    fitted = fit_adapter(
        llm, examples, config, adapter=adapter, checkpoint=given.cache / "adapter" / given.out.name
    )
    for row in fitted.rows:
        print({name: round(value, 3) for name, value in row.items()})
    given.out.mkdir(parents=True, exist_ok=True)
    scores = score_answers(llm, fitted.adapter, Drawer(examples, fitted.layout, config), given.scored)
    print(scores)
    fitted.adapter.save(
        given.out,
        encoders=tuple(one.fingerprint for one in word_encoders().values()),
        about={"settings": config.model_dump(), "best": fitted.best, "held_out": scores},
    )
    write_curves(given.out, fitted, {})
    print(f"{machine()}: {fitted.seconds:.0f} s")


if __name__ == "__main__":
    main()
