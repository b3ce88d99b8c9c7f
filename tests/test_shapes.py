"""Shapes in annotations are checked while tests run, and cost a user nothing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from mllm_plugin.hierarchy import CosineRanker, MeanLevelEncoder
from mllm_plugin.llm.reading import window_counts
from mllm_plugin.training.losses import listwise_loss
from mllm_plugin.training.reader.stack import rms_norm
from mllm_plugin.training.routing.modules import LevelEncoderModule
from mllm_plugin.tree.clustering import nearest
from mllm_plugin.tree.node import EmbeddingChunk

COUNTS = np.ones(3, dtype=np.int64)
VECTORS = np.ones((3, 1, 4), dtype=np.float16)


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
    ],
    ids=["ranker", "fold", "clustering", "children", "reading", "loss", "training", "stack"],
)
def test_a_wrong_shape_is_found_where_it_goes_in(call) -> None:
    with pytest.raises(TypeCheckError):
        call()


def test_without_a_test_run_nothing_is_checked_or_imported() -> None:
    code = (
        "import sys, typing, numpy, mllm_plugin\n"
        "from mllm_plugin.tree.clustering import nearest\n"
        "assert not {'jaxtyping', 'beartype'} & set(sys.modules)\n"
        "assert not hasattr(nearest, '__wrapped__')\n"
        "assert typing.get_type_hints(nearest)['vectors'] is numpy.ndarray\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
