"""The example of modules of one's own runs as it stands, with the real encoder and no hub."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLE = str(Path(__file__).parents[3] / "examples" / "own_modules.py")


def test_own_modules_are_trained_saved_and_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(EXAMPLE, run_name="__main__")
    printed = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert "trained" in printed["The package's modules, your loss"]
    assert printed["Your modules"].endswith("verified: True")
    assert printed["Found"] == printed["Found again"]
    assert printed["Trained on it"] == "True"


def test_its_modules_start_as_the_identity() -> None:
    from mllm_plugin.hierarchy import CosineRanker, MeanLevelEncoder

    names = runpy.run_path(EXAMPLE)
    rng, gate = np.random.default_rng(0), {"gate": np.zeros(8, np.float32)}
    children, live = rng.normal(size=(5, 1, 8)).astype(np.float16), np.arange(5) != 2
    assert np.array_equal(
        names["GatedMean"](gate).fold(children, live), MeanLevelEncoder().fold(children, live)
    )
    assert not names["GatedMean"](gate).fold(children, np.zeros(5, bool)).any()
    queries = rng.normal(size=(2, 1, 8)).astype(np.float32)
    scores = names["GatedCosine"](gate).score(queries, children.astype(np.float32))
    assert np.allclose(scores, CosineRanker().score(queries, children.astype(np.float32)))


def test_its_loss_counts_what_beats_a_wanted_node() -> None:
    loss = runpy.run_path(EXAMPLE)["margin_loss"]
    scores = torch.tensor([[2.0, 1.0, float("-inf")], [0.0, 1.0, 0.0]], requires_grad=True)
    value = loss(scores, torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert value.item() == pytest.approx((0.0 + 1.5) / 2)
    value.backward()
    assert torch.isfinite(scores.grad).all()
