"""Shapes in annotations are checked while tests run, and cost a user nothing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from mllm_plugin.hierarchy import CosineRanker, MeanLevelEncoder
from mllm_plugin.image import Plan, Space, SpaceWindows, plain, walk
from mllm_plugin.image.space import Level, arrange
from mllm_plugin.image.tensors import Reached
from mllm_plugin.llm.reading import window_counts
from mllm_plugin.search.allowed import Allowed
from mllm_plugin.search.query import Query
from mllm_plugin.search.rank import Candidates, best_rows, joined, with_meaning
from mllm_plugin.search.refold import Nodes
from mllm_plugin.search.together import Union
from mllm_plugin.search.walk import Frontier, promising
from mllm_plugin.text.lexical import TermCounts
from mllm_plugin.training.losses import listwise_loss
from mllm_plugin.training.reader.stack import rms_norm
from mllm_plugin.training.routing.modules import LevelEncoderModule
from mllm_plugin.tree.clustering import nearest
from mllm_plugin.tree.node import EmbeddingChunk
from tests.helpers.source_tools import MODULES

COUNTS = np.ones(3, dtype=np.int64)
LIVE, WORDS = COUNTS > 0, COUNTS.astype(np.uint32)
VECTORS = np.ones((3, 1, 4), dtype=np.float16)
FLAT = np.ones((3, 4), dtype=np.float32)
SCORES = np.ones(3, dtype=np.float32)
CODES = np.ones((3, 4), dtype=np.int8)
QUERIES = np.ones((1, 1, 4), dtype=np.float32)


def space() -> Space:
    """One level of three chunks."""
    level = Level(COUNTS, COUNTS, COUNTS, VECTORS[:, 0], COUNTS[:0])
    return arrange([level], TermCounts.of(["a"] * 3), 1)


def found_in(given: Space) -> list[int]:
    [found] = walk(given, QUERIES, Plan(None))
    return found.best(3).tolist()


@pytest.mark.parametrize(
    "call",
    [
        lambda: CosineRanker().score(np.ones((1, 4), np.float32), np.ones((3, 1, 4), np.float32)),
        lambda: MeanLevelEncoder().fold(VECTORS, np.ones(2, dtype=bool)),
        lambda: nearest(np.ones((3, 4), np.float32), np.ones((2, 5), np.float32)),
        lambda: EmbeddingChunk(COUNTS, VECTORS, COUNTS, COUNTS[:2], COUNTS, None),
        lambda: window_counts(torch.ones(3, dtype=torch.long), torch.ones(2, dtype=torch.long)),
        lambda: listwise_loss(torch.ones(2, 3), torch.ones(2, 4)),
        lambda: LevelEncoderModule(4)(torch.ones(3, 4), torch.zeros(2, dtype=torch.long), 1),
        lambda: rms_norm(torch.ones(2, 4), torch.ones(3), 1e-6),
        lambda: Query("a", SCORES),
        lambda: Allowed(COUNTS, COUNTS, COUNTS[:2]),
        lambda: Allowed(COUNTS, COUNTS, COUNTS).chunks(SCORES),
        lambda: Candidates(COUNTS, FLAT, np.ones(2), complete=True, scored=3),
        lambda: best_rows(SCORES, COUNTS[:2], 1),
        lambda: with_meaning(SCORES, FLAT[:2]),
        lambda: joined([np.float32(1)]),
        lambda: promising(FLAT, SCORES, 1, 1, 0.1),
        lambda: Frontier((), SCORES, FLAT, COUNTS, COUNTS),
        lambda: Nodes(COUNTS, FLAT[:, None], COUNTS[:2]),
        lambda: Union(COUNTS, COUNTS, FLAT[:2], LIVE, LIVE, WORDS, WORDS, WORDS.astype(np.uint8), COUNTS),
        lambda: Level(COUNTS, COUNTS, COUNTS, VECTORS, COUNTS[:0]),
        lambda: replace(space(), first=COUNTS),
        lambda: walk(space(), QUERIES[0], Plan(None)),
        lambda: walk(space(), QUERIES, Plan(None), COUNTS),
        lambda: space().counts(np.ones((3, 1), bool)),
        lambda: SpaceWindows(space(), FLAT),
        lambda: plain.score_rows(CODES, SCORES, COUNTS, CODES[:1, :3], SCORES[:1]),
        lambda: Reached.of(torch.ones(3, dtype=torch.long), torch.ones(1, 3, dtype=torch.long)),
    ],
    ids=[
        *("ranker", "fold", "clustering", "children", "reading", "loss", "training", "stack"),
        *(
            "query",
            "allowed",
            "looked up",
            "candidates",
            "best rows",
            "cosines",
            "joined",
            "beam",
            "frontier",
        ),
        *("nodes", "union", "level", "space", "walk", "counts", "filter", "windows", "kernel", "device"),
    ],
)
def test_a_wrong_shape_is_found_where_it_goes_in(call) -> None:
    with pytest.raises(TypeCheckError):
        call()


def test_right_shapes_pass() -> None:
    assert found_in(space()) == [0, 1, 2]


def test_every_module_that_names_shapes_is_checked(pytestconfig: pytest.Config) -> None:
    checked = pytestconfig.getoption("--jaxtyping-packages").split(",")[:-1]
    named = [
        name
        for name, path in MODULES["mllm_plugin"].items()
        if "from mllm_plugin.shapes import" in path.read_text(encoding="utf-8")
    ]
    assert [name for name in named if not f"{name}.".startswith(tuple(f"{one}." for one in checked))] == []


def test_without_a_test_run_nothing_is_checked_or_imported() -> None:
    code = (
        "import sys, typing, numpy, mllm_plugin\n"
        "from mllm_plugin.tree.clustering import nearest\n"
        "assert not {'jaxtyping', 'beartype'} & set(sys.modules)\n"
        "assert not hasattr(nearest, '__wrapped__')\n"
        "assert typing.get_type_hints(nearest)['vectors'] is numpy.ndarray\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
