"""How well does the shipped reader decline, and how sure is it? Fits what makes its chances probabilities.

    python benchmarks/declining.py --data DIR [--write]

Questions of squad `dev`, which nothing was trained on, asked twice: as they are, and with the document that
answers left out of the search, so that its neighbours are found. The model reads the best chunk and has to
answer; how likely it found it that it should decline is kept. A logistic regression on the log-odds of that
and of the chunk's relevance is fitted, article by article left out, to tell whether the chunk holds an
accepted answer. Intervals are of 95 %, over questions.

What was measured is kept in the cache, so that an interrupted run goes on. With --write the fit to all
questions goes into the reader's folder.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
from beir import read_corpus, read_queries
from common import cached_encoder, interval, machine, parser, print_table
from numpy.typing import NDArray

from mllm_plugin import MemoryIndex
from mllm_plugin.llm import MemoryReader, ReaderConfig, load_llm
from mllm_plugin.llm.declining import Calibration, log_odds
from mllm_plugin.memory_llm import MemoryLLM, MemoryLLMConfig
from mllm_plugin.training.reader.answers import f1

PENALTY = 0.3
SHIPPED = files("mllm_plugin") / "trained" / "smollm2-135m-instruct"


@dataclass(frozen=True)
class Reading:
    """A question with the best chunk.

    Attributes:
        question, article: Which, and what it is about.
        gone: Whether the document that answers was left out.
        holds: Whether the chunk that was read has an accepted answer.
        chance: How likely the model found it that it should decline.
        relevance: Of the chunk.
        f1: Of what it says when it has to answer.
    """

    question: str
    article: str
    gone: bool
    holds: bool
    chance: float
    relevance: float
    f1: float


def readings(options: Namespace) -> list[Reading]:
    """Measured now, and before."""
    own = MemoryReader.load(options.reader)
    path = options.cache / f"declining-{options.mode}-{own.fingerprint[:16]}.jsonl"
    known = [Reading(**json.loads(line)) for line in path.open()] if path.is_file() else []
    rows = read_queries(options.data / "squad", "dev")
    order = np.random.default_rng(0).permutation(len(rows))[: options.limit]
    asked = [list(rows)[n] for n in order]
    missing = [one for one in asked if one not in {done.question for done in known}]
    if missing:
        with path.open("a") as stream:
            for found in measured({one: rows[one] for one in missing}, options, own):
                stream.write("".join(json.dumps(asdict(one)) + "\n" for one in found))
                stream.flush()
                known += found
    return [one for one in known if one.question in set(asked)]


def measured(rows: Mapping[str, Mapping], options: Namespace, own: MemoryReader) -> Iterator[list[Reading]]:
    """Both readings of each question."""
    memory = MemoryIndex.open(
        options.cache / "memories" / "squad-default", encoder=cached_encoder(options.cache)
    )
    if not memory.stats().documents:
        corpus = read_corpus(options.data / "squad")
        memory.add([replace(one, metadata={"document": one.id}) for one in corpus])
    llm = load_llm()
    bare = MemoryReader(own.config.model_copy(update={"declining": None}), own.tensors)
    read = {"mode": "both", "k": 5} if options.mode == "both" else {"k": 1}
    config = MemoryLLMConfig(**read, max_new_tokens=24, decline_above=1, search="flat")
    answerer = MemoryLLM(memory, llm, bare, config)
    for name, row in rows.items():
        yield [_reading(answerer, name, row, gone=gone) for gone in (False, True)]


def _reading(answerer: MemoryLLM, name: str, row: Mapping, *, gone: bool) -> Reading:
    without = {"document": {"$ne": row["doc"]}} if gone else None
    answer = answerer.answer(row["text"], filter=without)
    [hit] = answerer.memory.search(row["text"], k=1, mode="flat", filter=without)
    holds = any(accepted.lower() in hit.text.lower() for accepted in row["answers"])
    article, right = row["doc"].split("-")[0], f1(answer.text, row["answers"])
    return Reading(name, article, gone, holds, answer.unknown or 0.0, hit.relevance, right)


# -- the fit


def fitted(found: Sequence[Reading], features: Sequence[str]) -> NDArray[np.float64]:
    """Offset and weights that tell whether the chunk does not hold an answer, by Newton's method."""
    inputs, wanted = inputs_of(found, features), np.array([not one.holds for one in found], float)
    weights = np.zeros(inputs.shape[1])
    ridge = np.diag([1e-6, *[PENALTY] * len(features)])
    for _ in range(50):
        chances = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (chances - wanted) + ridge @ weights
        bend = (inputs * (chances * (1 - chances))[:, None]).T @ inputs + ridge
        weights -= np.linalg.solve(bend, slope)
    return weights


def inputs_of(found: Sequence[Reading], features: Sequence[str]) -> NDArray[np.float64]:
    """One, and the log-odds of each feature [n, f + 1]."""
    columns = [[log_odds(getattr(one, feature)) for one in found] for feature in features]
    return np.stack([np.ones(len(found)), *map(np.array, columns)], axis=1)


def left_out(found: Sequence[Reading], features: Sequence[str]) -> NDArray[np.float64]:
    """The probability of each reading by a fit to the other articles [n]."""
    articles, margins = np.array([one.article for one in found]), np.zeros(len(found))
    for article in sorted(set(articles)):
        others = [one for one in found if one.article != article]
        own = [one for one in found if one.article == article]
        margins[articles == article] = inputs_of(own, features) @ fitted(others, features)
    return 1 / (1 + np.exp(-margins))


# -- what is printed


def auroc(there: NDArray[np.float64], gone: NDArray[np.float64]) -> float:
    """How often an unanswerable question is found likelier to be one than an answerable."""
    return float((gone[:, None] > there).mean() + 0.5 * (gone[:, None] == there).mean())


def report(found: Sequence[Reading], scores: Mapping[str, NDArray[np.float64]], threshold: float) -> None:
    """Two tables: how well they are told apart, and what comes of it at a threshold."""
    gone, holds = (np.array([getattr(one, name) for one in found]) for name in ("gone", "holds"))
    right = np.array([one.f1 for one in found])
    kinds = {
        "document left out": (~gone, gone),
        "answer not in the chunk": (holds, ~holds),
        "left out, of those answered right": (~gone & (right > 0), gone),
    }
    apart, outcomes = [], []
    for name, score in scores.items():
        cells = [name]
        for there, away in kinds.values():
            limit = np.quantile(score[there], 0.95)
            cells.append(
                f"{auroc(score[there], score[away]):.3f}, {100 * np.mean(score[away] > limit):.0f} %"
            )
        apart.append(cells)
        declined = score > threshold
        gained = np.where(gone & ~holds, declined, np.where(declined, 0.0, right))
        outcomes.append(
            [
                name,
                *(percent(declined[mask].astype(float)) for mask in (~gone, gone, ~gone & (right > 0))),
                percent(gained[~gone]),
                percent(both_ways(found, gained)),
            ]
        )
    print_table(["AUROC, declined where 5 % of the others are", *kinds], apart)
    print(f"\nAbove {threshold:g}:\n")
    columns = ["declined, answerable", "declined, left out", "declined, answered right", "F1, answerable"]
    print_table(["", *columns, "F1, all"], outcomes)


def both_ways(found: Sequence[Reading], gained: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of what each question gains in both readings; declining what cannot be answered gains 1."""
    own: dict[str, list[float]] = {}
    for one, value in zip(found, gained.tolist(), strict=True):
        own.setdefault(one.question, []).append(value)
    return np.array([np.mean(values) for values in own.values()])


def percent(values: NDArray[np.float64]) -> str:
    low, high = interval(100 * values)
    return f"{100 * values.mean():.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--limit", type=int, default=200, help="questions")
    arguments.add_argument("--threshold", type=float, default=0.5)
    arguments.add_argument("--reader", type=Path, default=Path(str(SHIPPED)), help="folder of the reader")
    arguments.add_argument("--mode", choices=("text", "both"), default="text", help="what is read")
    arguments.add_argument("--write", action="store_true", help="keep the fit in the reader's folder")
    options = arguments.parse_args()
    found = readings(options)
    articles = len({one.article for one in found})
    print(
        f"On {machine()}; {len(found) // 2} questions about {articles} articles, each asked in both ways.\n"
    )
    scores = {
        "the model's own chance": np.array([one.chance for one in found]),
        "calibrated": left_out(found, ["chance"]),
        "relevance alone": left_out(found, ["relevance"]),
        "calibrated, with relevance": left_out(found, ["chance", "relevance"]),
    }
    report(found, scores, options.threshold)
    offset, chance, relevance = map(float, fitted(found, ["chance", "relevance"]).round(3))
    print(f"\nAll questions: offset {offset}, chance {chance}, relevance {relevance}.")
    if options.write:
        about = {
            "data": f"{len(found) // 2} questions of squad dev",
            "command": "benchmarks/declining.py --write",
        }
        path = options.reader / "reader.json"
        config = ReaderConfig.model_validate_json(path.read_bytes())
        new = Calibration(offset=offset, chance=chance, relevance=relevance, about=about)
        config = config.model_copy(update={"declining": new})
        path.write_text(config.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
