"""Makes the weights that the package ships for the default encoder.

    python benchmarks/train_default.py --data DIR --out mllm_plugin/trained/all-minilm-l6-v2

Trains on the `train` questions of several sets and on spans of documents; measures on `train` questions about
held-out contracts, articles and pages. `dev` stays untouched for routing.py and retrieval.py. With
`--self-supervised` no question is used, only spans of the documents; `--parts rankers` keeps the nodes means.
"""

from __future__ import annotations

import json
from argparse import Namespace
from datetime import date
from functools import reduce
from itertools import islice
from pathlib import Path

import numpy as np
from beir import read_corpus, read_qrels, read_queries
from cached_encoder import CachedEncoder
from common import cached_encoder, cached_memory, machine, parser, read_chunks
from retrieval import identifier_questions

from mllm_plugin import ChunkingConfig, MemoryIndex
from mllm_plugin.hierarchy import Hierarchy, LeafRanker
from mllm_plugin.training.curves import draw
from mllm_plugin.training.leaf import LeafEvidence, collect_evidence, train_leaf
from mllm_plugin.training.questions import held_out_queries
from mllm_plugin.training.routing.config import TrainingConfig
from mllm_plugin.training.routing.fit import curves, fit, panels
from mllm_plugin.training.routing.samples import Samples, collect_samples, draw_spans

# name of the cached memory, sets in it, tokens of a chunk, most documents
SOURCES: dict[str, tuple[tuple[str, ...], int, int | None]] = {
    "routing": (("medquad", "cuad", "squad"), 254, None),
    "scifact": (("scifact",), 128, None),
    "techdocs-11000": (("techdocs",), 128, 11_000),
}
_IDENTIFIERS = 300


def open_source(name: str, options: Namespace, encoder: CachedEncoder) -> MemoryIndex:
    """The cached memory of a source, untrained."""
    sets, tokens, most = SOURCES[name]
    return cached_memory(
        name,
        lambda: islice((one for part in sets for one in read_corpus(options.data / part)), most),
        encoder,
        options.cache,
        chunking=ChunkingConfig(chunk_tokens=tokens),
    )


def train_questions(name: str, options: Namespace) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Questions of `train` and their judgements; none for a source without questions."""
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for part in SOURCES[name][0]:
        folder = options.data / part
        if options.self_supervised or not any(folder.glob("queries.jsonl*")):
            continue
        judged = read_qrels(folder)
        for query, row in read_queries(folder, "train").items():
            queries[query] = row["text"]
            qrels[query] = judged.get(query, {})
    return queries, qrels


def routing_samples(name: str, memory: MemoryIndex, options: Namespace) -> Samples:
    """Questions, and spans, with the chunks that a scan finds for them."""
    queries, qrels = train_questions(name, options)
    order = np.random.default_rng(options.seed).permutation(sorted(queries))[: options.queries]
    groups = {document: document.split("-")[0] for judged in qrels.values() for document in judged}
    marks = held_out_queries(queries, qrels, groups)
    texts, held_out = [queries[one] for one in order], [marks[one] for one in order]
    spans, measured = draw_spans(memory, options.spans, seed=options.seed)
    if texts:  # questions measure better
        measured = [False] * len(spans)
    return collect_samples(memory, [*texts, *spans], [*held_out, *measured])


def leaf_evidence(name: str, memory: MemoryIndex, options: Namespace) -> dict[str, list[LeafEvidence]]:
    """Evidence of labelled questions by set, and of questions for a term that one chunk alone has."""
    queries, qrels = train_questions(name, options)
    rng, found = np.random.default_rng(options.seed), {}
    for part in SOURCES[name][0]:
        names = [one for one in read_names(options, part) if any(g > 0 for g in qrels.get(one, {}).values())]
        chosen = rng.permutation(names)[: options.leaf_queries].tolist()
        if chosen:
            found[part] = collect_evidence(memory, {one: queries[one] for one in chosen}, qrels)
    if found:
        asked, owners = identifier_questions(read_chunks(memory), _IDENTIFIERS, seed=5)
        found[f"identifiers of {name}"] = collect_evidence(memory, asked, owners)
    return found


def read_names(options: Namespace, part: str) -> list[str]:
    """Ids of a set's `train` questions."""
    folder = options.data / part
    return list(read_queries(folder, "train")) if any(folder.glob("queries.jsonl*")) else []


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--sources", nargs="+", default=list(SOURCES))
    arguments.add_argument("--queries", type=int, default=8000, help="questions per source at most")
    arguments.add_argument("--spans", type=int, default=1500, help="spans per source")
    arguments.add_argument(
        "--leaf-queries", type=int, default=600, help="questions per set for the leaf ranker"
    )
    arguments.add_argument("--steps", type=int, default=500)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--device")
    arguments.add_argument("--self-supervised", action="store_true")
    arguments.add_argument("--parts", nargs="+", default=["encoders", "rankers"], help="what is trained")
    options = arguments.parse_args()
    encoder = cached_encoder(options.cache)
    samples, evidence, tree = [], {}, None
    for name in options.sources:
        with open_source(name, options, encoder) as memory:
            samples.append(routing_samples(name, memory, options))
            evidence |= leaf_evidence(name, memory, options)
            tree = memory.config.tree
    assert tree is not None
    joined = reduce(Samples.joined, samples)
    config = TrainingConfig(steps=options.steps, seed=options.seed, patience=9, parts=tuple(options.parts))
    name = "-".join([options.out.name, *options.parts, str(options.seed)])
    checkpoint = options.cache / "checkpoints" / name
    fitted = fit(joined, tree, config, device=options.device, checkpoint=checkpoint)
    leaf = LeafRanker(tensors=train_leaf(evidence)) if evidence else LeafRanker()
    hierarchy = Hierarchy(
        level_encoders=fitted.hierarchy.level_encoders,
        rankers=fitted.hierarchy.rankers,
        leaf_ranker=leaf,
    )
    about = {
        "made": date.today().isoformat(),
        "sources": options.sources,
        "chunks": len(joined.leaves),
        "questions_and_spans": len(joined.queries),
        "self_supervised": options.self_supervised,
        "config": config.model_dump(),
        "held_out": fitted.comparison.summary(),
        "machine": machine(),
        "seconds": round(fitted.seconds),
    }
    fingerprint = hierarchy.save(options.out, encoder=encoder.fingerprint, about=about)
    found = curves(fitted)
    (options.cache / f"{options.out.name}-curves.json").write_text(json.dumps(found))
    draw(panels(fitted), options.cache / f"{options.out.name}-curves.png")
    print(f"{fingerprint}\n{fitted.comparison.summary()}\n{fitted.seconds:.0f} s; leaf: {leaf.tensors}")


if __name__ == "__main__":
    main()
