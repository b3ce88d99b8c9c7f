"""What does each part of a trained hierarchy give? Held-out questions, simulated walks, one part at a time.

    python benchmarks/levers.py --data DIR

Trains on `train` questions and spans of one set, several times with parts left out. Printed: the share of the
targets that a walk misses when it scores the same share of the chunks. Targets are the ten best chunks of an
exact search, less those that rare words lead to anyway.
"""

from __future__ import annotations

import time
from argparse import Namespace

import torch
from beir import read_corpus, read_qrels, read_queries
from common import cached_encoder, cached_memory, machine, parser, print_table

from mllm_plugin import TreeConfig
from mllm_plugin.training import Samples, TrainingConfig, collect_samples, draw_spans
from mllm_plugin.training.losses import listwise_loss, softmax_loss
from mllm_plugin.training.questions import held_out_queries
from mllm_plugin.training.routing.calibration import calibrate, calibrated_walk
from mllm_plugin.training.routing.evaluate import make_trial, node_scores
from mllm_plugin.training.routing.fit import WIDTHS, identity_scores, recall_at
from mllm_plugin.training.routing.loop import train_hierarchy
from mllm_plugin.training.routing.modules import HierarchyModule

SHARES = (0.03, 0.05, 0.08)
TREE = TreeConfig()


def read_samples(options: Namespace) -> Samples:
    """Questions and spans with their targets."""
    folder = options.data / options.set
    memory = cached_memory(
        options.set, lambda: read_corpus(folder), cached_encoder(options.cache), options.cache
    )
    queries = {query: row["text"] for query, row in read_queries(folder, "train").items()}
    queries = dict(list(queries.items())[: options.queries])
    marks = held_out_queries(queries, read_qrels(folder))
    spans, measured = draw_spans(memory, options.spans, seed=0)
    texts, held_out = [*queries.values(), *spans], [*marks.values(), *measured]
    return collect_samples(memory, texts, held_out)


def untrained(samples: Samples, tree: TreeConfig, *, slack: bool) -> dict[int, tuple[float, float]]:
    """The identity's curve, with or without calibrated slacks."""
    config = TrainingConfig()
    trial = make_trial(samples, tree, config)
    if not slack:
        scores = identity_scores(trial)
        return {width: trial.walk(scores, width=width, slacks=[None] * len(scores)).point for width in WIDTHS}
    return _curve(HierarchyModule(samples.leaves.shape[1], config), trial, config, slack=True)


def trained(samples: Samples, *, slack: bool = True, loss=listwise_loss, **settings) -> dict:  # noqa: ANN001, ANN003
    """The curve of a hierarchy trained with some settings."""
    config = TrainingConfig(**settings)
    module, _, trial = train_hierarchy(samples, TREE, config, loss=loss, progress=False)
    return _curve(module, trial, config, slack=slack)


def _curve(module, trial, config, *, slack: bool) -> dict[int, tuple[float, float]]:  # noqa: ANN001
    device = torch.device("cpu")
    numbers = calibrate(module, trial, config, device)
    if not slack:
        numbers = {level: {**row, "slack": float("inf")} for level, row in numbers.items()}
    scores = node_scores(module, trial, device)[0]
    return {width: calibrated_walk(scores, numbers, trial, width).point for width in WIDTHS}


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--set", default="scifact")
    arguments.add_argument("--queries", type=int, default=3000)
    arguments.add_argument("--spans", type=int, default=2500)
    arguments.add_argument("--steps", type=int, default=200)
    options = arguments.parse_args()
    samples = read_samples(options)
    settings = {"steps": options.steps, "chunks": 8192}
    print(f"On {machine()}. {options.set}: {len(samples.leaves)} chunks, {len(samples.queries)} questions.\n")
    rows = {
        "untrained, groups of 32": lambda: untrained(samples, TreeConfig(fan_out=32), slack=False),
        "untrained, groups of 16, then 32 (the default)": lambda: untrained(samples, TREE, slack=False),
        "untrained, groups of 8, then 32": lambda: untrained(
            samples, TreeConfig(fan_out=(8, 32)), slack=False
        ),
        "untrained with slacks": lambda: untrained(samples, TREE, slack=True),
        "trained, no slacks": lambda: trained(samples, slack=False, **settings),
        "trained rankers only, with slacks": lambda: trained(samples, parts=("rankers",), **settings),
        "trained encoders only, with slacks": lambda: trained(samples, parts=("encoders",), **settings),
        "trained, softmax over all in place of listwise": lambda: trained(
            samples, loss=softmax_loss, **settings
        ),
        "trained, the same groups all the time": lambda: trained(samples, redraw=10**6, **settings),
        "trained": lambda: trained(samples, **settings),
    }
    table = []
    for name, run in rows.items():
        started = time.perf_counter()
        curve = run()
        cells = [f"{100 * (1 - recall_at(curve, share)):.2f} %" for share in SHARES]
        table.append([name, *cells, f"{time.perf_counter() - started:.0f}"])
        print(table[-1], flush=True)
    print()
    print_table(["", *(f"misses at {100 * share:g} % scored" for share in SHARES), "s"], table)


if __name__ == "__main__":
    main()
