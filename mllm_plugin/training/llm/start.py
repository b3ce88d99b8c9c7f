"""A start for the projector: what a window's soft token should resemble is known before any training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_plugin.llm.models import LoadedLLM
from mllm_plugin.llm.projector import MemoryProjector
from mllm_plugin.training.llm.examples import Examples

_STEPS, _BATCH, _RATE = 400, 512, 1e-3


def start_projector(
    projector: MemoryProjector, examples: Examples, llm: LoadedLLM, *, steps: int = _STEPS, seed: int = 0
) -> float:
    """Teaches a projector to give the mean of the LLM's own embeddings of the words behind a vector.

    Rare words weigh more. Windows are taken to share the tokens of their chunk evenly.

    Args:
        projector: Is changed.
        examples: Windows and texts.
        llm: Whose embeddings.
        steps: Of AdamW.
        seed: Of the batches.

    Returns:
        Share of the variance of these means that the projector explains.
    """
    vectors, levels, means = _pairs(examples, llm)
    center, spread = means.mean(dim=0), (means - means.mean(dim=0)).norm(dim=-1).mean()
    own = llm.embeddings.weight.detach().float().cpu()
    scale = (own - own.mean(dim=0)).norm(dim=-1).mean() / spread
    targets = (means - center) * scale + own.mean(dim=0)
    device = projector.inner.weight.device
    optimizer = torch.optim.AdamW(projector.parameters(), lr=_RATE, weight_decay=0.0)
    generator, size = torch.Generator().manual_seed(seed), len(vectors)
    repeat, residual = projector.tokens_per_embedding, 1.0
    for step in range(steps):
        rows = torch.randint(size, (min(_BATCH, size),), generator=generator)
        wanted = targets[rows].to(device).repeat_interleave(repeat, dim=0)
        optimizer.param_groups[0]["lr"] = _RATE * min(1.0, 2 * (1 - step / steps))
        error = (
            (projector(vectors[rows].to(device), levels[rows].to(device)) - wanted).square().sum(-1).mean()
        )
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        residual = error.item() / float((targets - targets.mean(dim=0)).square().sum(-1).mean())
    return 1.0 - residual


def _pairs(examples: Examples, llm: LoadedLLM) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors [n, d], their levels [n], and mean embeddings [n, h] of the words behind them."""
    table = llm.embeddings.weight.detach().float().cpu().numpy()
    tokens = [
        np.array(llm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        for text in examples.texts
    ]
    counts = np.bincount(np.concatenate(tokens), minlength=len(table))
    weights = np.log(1 + counts.sum() / (counts + 1.0))
    vectors, levels, means = [], [], []
    for size in examples.windows:
        for chunk, ids in enumerate(tokens):
            windows = examples.windows_of(chunk, size)
            if len(windows) and len(ids) >= len(windows):
                parts = np.array_split(ids, len(windows))
                vectors.append(windows)
                levels.append(np.zeros(len(windows), np.int64))
                means += [_mean(table, weights, part) for part in parts]
    vectors.append(examples.pooled)
    levels.append(np.ones(len(tokens), np.int64))
    means += [_mean(table, weights, ids) for ids in tokens]
    return (
        torch.from_numpy(np.concatenate(vectors)),
        torch.from_numpy(np.concatenate(levels)),
        torch.from_numpy(np.stack(means)).float(),
    )


def _mean(table: NDArray, weights: NDArray, ids: NDArray) -> NDArray:
    return weights[ids] @ table[ids] / max(weights[ids].sum(), 1e-9)
