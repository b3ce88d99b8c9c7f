"""How well does the memory find documents, beside flat cosine, BM25 and their rank fusion?

    python benchmarks/retrieval.py --data DIR --sets squad scifact medquad --crowded squad

Same chunks, same encoder and same run for all rows. The memory's own modes are forced: "beam" walks the tree,
"flat" scans all pooled cosines, "exact" scores every chunk, "over the file, beam" walks without the search
image; "untrained" is the identity hierarchy. Identifier questions ask for a term that one chunk alone has.
"""

from __future__ import annotations

import random
import re
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from beir import read_corpus, read_qrels, read_queries
from cached_encoder import CachedEncoder
from common import (
    DEPTH,
    Chunks,
    Run,
    Timed,
    cached_encoder,
    cached_memory,
    document_ranking,
    fused,
    interval,
    machine,
    parser,
    per_query,
    print_table,
    read_chunks,
    timed,
    trained_copy,
)

from mllm_plugin import ChunkingConfig, Document, MemoryConfig, MemoryIndex, SearchConfig

_BATCH = 32
_TIMED = 100
_MODES = ("beam", "flat", "exact")
_IDENTIFIER = re.compile(r"\b(?=\w*[A-Za-z])\w{6,40}\b")


def memory_run(memory: MemoryIndex, queries: dict[str, str], **options: Any) -> Run:
    """Documents that the memory returns."""
    ids = list(queries)
    run: Run = {}
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        found = memory.search_batch(
            [queries[one] for one in batch], k=DEPTH, unique_documents=True, **options
        )
        run |= {
            query: {hit.document_id: hit.score for hit in hits}
            for query, hits in zip(batch, found, strict=True)
        }
    return run


def cosine_run(memory: MemoryIndex, chunks: Chunks, queries: dict[str, str]) -> Run:
    """Flat scan of all pooled vectors."""
    vectors = memory.encoder.encode_queries(list(queries.values()))
    return {
        query: document_ranking(chunks.vectors @ vector, chunks.documents)
        for query, vector in zip(queries, vectors, strict=True)
    }


def bm25_run(chunks: Chunks, queries: dict[str, str]) -> Run:
    """BM25 of the library bm25s over the same chunks, its defaults: Lucene's variant, English stop words."""
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize(chunks.texts, show_progress=False), show_progress=False)
    run: Run = {}
    for query, text in queries.items():
        tokens = bm25s.tokenize([text], show_progress=False, return_ids=False)[0]
        run[query] = document_ranking(index.get_scores(tokens), chunks.documents)
    return run


def rivals(memory: MemoryIndex, chunks: Chunks, queries: dict[str, str]) -> dict[str, Timed]:
    """Flat cosine, BM25, and reciprocal rank fusion of the two."""
    cosine = timed(lambda: cosine_run(memory, chunks, queries))
    bm25 = timed(lambda: bm25_run(chunks, queries))
    both = Timed(fused(cosine.run, bm25.run), cosine.milliseconds + bm25.milliseconds)
    return {"flat cosine": cosine, "BM25": bm25, "RRF": both}


def identifier_questions(chunks: Chunks, count: int = 300, seed: int = 0) -> tuple[dict[str, str], dict]:
    """Questions for terms that one chunk alone has, and where it is."""
    occurs: Counter[str] = Counter()
    owner: dict[str, str] = {}
    everywhere: Counter[str] = Counter()
    for text, document in zip(chunks.texts, chunks.documents, strict=True):
        everywhere.update({word.casefold() for word in re.findall(r"\w+", text)})
        for term in set(_IDENTIFIER.findall(text)):
            occurs[term] += 1
            owner[term] = document
    once = sorted(term for term, found in occurs.items() if found == 1 and everywhere[term.casefold()] == 1)
    chosen = random.Random(seed).sample(once, min(count, len(once)))
    return {t: f"What does {t} do?" for t in chosen}, {t: {owner[t]: 1} for t in chosen}


def compare(title: str, rows: dict[str, Timed], qrels: dict[str, dict[str, int]]) -> None:
    """Prints a table; differences are paired with the best rival by nDCG@10."""
    from ir_measures import R, nDCG

    metrics = [nDCG @ 10, R @ 10, R @ 100]
    values = {name: per_query(row.run, qrels, metrics) for name, row in rows.items()}
    ours = [name for name in rows if name.startswith(("memory", "untrained"))]
    best = max((n for n in rows if n not in ours), key=lambda name: values[name]["nDCG@10"].mean())
    print(
        f"\n### {title}\n\n{len(qrels)} queries; difference to the best rival, {best}, with 95 % interval.\n"
    )
    table = []
    for name, row in rows.items():
        gain = values[name]["nDCG@10"] - values[best]["nDCG@10"]
        low, high = interval(gain)
        difference = f"{gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]" if name in ours else ""
        table.append(
            [
                name,
                *(f"{values[name][str(m)].mean():.3f}" for m in metrics),
                difference,
                f"{row.milliseconds:.1f}",
            ]
        )
    print_table(["", *map(str, metrics), "nDCG@10 difference", "ms/query"], table)


def modes(
    memory: MemoryIndex, queries: dict[str, str], title: str = "memory", chosen: Sequence[str] = _MODES
) -> dict[str, Timed]:
    """The memory in each of its modes; timed at k=10, one query at a time, after one to warm up."""
    rows = {}
    for mode in chosen:
        run = memory_run(memory, queries, mode=mode)
        sample = list(queries.values())[:_TIMED]
        memory.search(sample[0], k=10, mode=mode)
        started = time.perf_counter()
        for text in sample:
            memory.search(text, k=10, mode=mode)
        rows[f"{title} {mode}"] = Timed(run, 1000 * (time.perf_counter() - started) / len(sample))
    return rows


def with_distractors(folder: Path, extra: Path, count: int) -> Iterator[Document]:
    """A set's documents, then others until about `count` chunks more."""
    yield from read_corpus(folder)
    characters = 0
    for document in read_corpus(extra):
        yield Document(id=f"distractor-{document.id}", text=document.text)
        characters += len(document.text)
        if characters > count * 290:
            return


def evaluate(name: str, options: Namespace, encoder: CachedEncoder) -> None:
    """Prints the tables of one set."""
    folder = options.data / name
    key = name if options.chunk_tokens == 128 else f"{name}-{options.chunk_tokens}"
    chunking = ChunkingConfig(chunk_tokens=options.chunk_tokens)
    memory = cached_memory(key, lambda: read_corpus(folder), encoder, options.cache, chunking=chunking)
    chunks = read_chunks(memory)
    judged = read_qrels(folder)
    queries = {q: row["text"] for q, row in read_queries(folder, options.split).items() if q in judged}
    queries = dict(islice(queries.items(), options.limit))
    rows = modes(memory, queries, "untrained", ("beam", "flat"))
    copy = trained_copy(memory, options.weights, options.cache / "memories" / f"{key}.trained")
    with MemoryIndex.open(copy, encoder=encoder) as trained:
        rows |= modes(trained, queries)
        asked = identifier_questions(chunks)
        identifiers = modes(trained, asked[0])
    plain = MemoryConfig(search=SearchConfig(image_from=None), chunking=chunking)
    with MemoryIndex.open(copy, encoder=encoder, config=plain) as trained:
        rows |= modes(trained, queries, "memory, over the file,", ("beam",))
    rows |= rivals(memory, chunks, queries)
    compare(f"{name}: {len(chunks.texts)} chunks", rows, {query: judged[query] for query in queries})
    compare(f"{name}: identifier questions", identifiers | rivals(memory, chunks, asked[0]), asked[1])


def evaluate_crowded(name: str, options: Namespace, encoder: CachedEncoder) -> None:
    """Identifier questions over a set with many chunks of another one among it."""
    folder, extra = options.data / name, options.data / options.distractors
    memory = cached_memory(
        f"{name}+{options.distractors}",
        lambda: with_distractors(folder, extra, options.distractor_chunks),
        encoder,
        options.cache,
    )
    chunks = read_chunks(memory)
    title = (
        f"{name} with distractors of {options.distractors}, {len(chunks.texts)} chunks: identifier questions"
    )
    ask_identifiers(title, memory, chunks)


def ask_identifiers(title: str, memory: MemoryIndex, chunks: Chunks) -> None:
    """Prints the table of questions for terms that one chunk alone has."""
    asked, owners = identifier_questions(chunks)
    compare(title, modes(memory, asked) | rivals(memory, chunks, asked), owners)


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--sets", nargs="*", default=["squad", "scifact", "medquad"])
    arguments.add_argument("--crowded", nargs="*", default=[], help="sets asked with distractors too")
    arguments.add_argument("--distractors", default="techdocs", help="set that the distractors come from")
    arguments.add_argument("--distractor-chunks", type=int, default=100_000)
    arguments.add_argument("--chunk-tokens", type=int, default=128)
    arguments.add_argument("--weights", default="default", help="hierarchy of the rows called memory")
    arguments.add_argument("--split", default="dev")
    arguments.add_argument("--limit", type=int, help="use only the first N queries")
    options = arguments.parse_args()
    print(f"On {machine()}; encoder all-MiniLM-L6-v2; milliseconds without embedding the query.")
    encoder = cached_encoder(options.cache)
    for name in options.sets:
        evaluate(name, options, encoder)
    for name in options.crowded:
        evaluate_crowded(name, options, encoder)


if __name__ == "__main__":
    main()
