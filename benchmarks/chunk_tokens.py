"""How long should a chunk be?

    python benchmarks/chunk_tokens.py --data DIR

The same sets cut at several lengths, same encoder and same run; flat mode, the best chunk of each document.
"""

from __future__ import annotations

from beir import read_corpus, read_qrels, read_queries
from common import cached_encoder, cached_memory, machine, parser, per_query, print_table
from retrieval import memory_run

from mllm_plugin import ChunkingConfig


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--sets", nargs="+", default=["squad", "scifact", "medquad"])
    arguments.add_argument("--tokens", nargs="+", type=int, default=[128, 254])
    options = arguments.parse_args()
    from ir_measures import R, nDCG

    metrics = [nDCG @ 10, R @ 10]
    print(f"On {machine()}; encoder all-MiniLM-L6-v2, which reads at most 254 tokens.\n")
    encoder = cached_encoder(options.cache)
    rows = []
    for name in options.sets:
        folder = options.data / name
        judged = read_qrels(folder)
        queries = {q: row["text"] for q, row in read_queries(folder).items() if q in judged}
        for tokens in options.tokens:
            memory = cached_memory(
                name if tokens == 128 else f"{name}-{tokens}",
                lambda folder=folder: read_corpus(folder),
                encoder,
                options.cache,
                chunking=ChunkingConfig(chunk_tokens=tokens),
            )
            run = memory_run(memory, queries, mode="flat")
            values = per_query(run, {query: judged[query] for query in queries}, metrics)
            stats = memory.stats()
            megabytes = f"{stats.file_bytes / 1e6:.0f}"
            figures = [f"{values[str(metric)].mean():.3f}" for metric in metrics]
            rows.append([name, str(tokens), str(stats.chunks), *figures, megabytes])
    print_table(["set", "chunk_tokens", "chunks", *map(str, metrics), "MB on disk"], rows)


if __name__ == "__main__":
    main()
