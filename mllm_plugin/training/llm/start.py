"""A start for the projector: a soft token should point to the words behind the vector it comes from.

No question and no pass through the LLM is needed, so this can read far more text than the training proper.
Shapes: n vectors, d dimensions, h width of the LLM, c words that a batch is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.llm.models import LoadedLLM
from mllm_plugin.llm.projector import MemoryProjector
from mllm_plugin.training.llm.examples import Examples

_BATCH, _RATE, _OTHERS, _SHARPNESS = 512, 2e-3, 1024, 8.0
_KNOWN_WORDS = 4.0  # log of how often the commonest words are met; they say nothing of a text

Offsets = Callable[[str], NDArray[np.int64]]


@dataclass(frozen=True)
class Spoken:
    """Vectors and the words behind them.

    Attributes:
        vectors: [n, d].
        levels: [n].
        words: LLM token ids behind each vector.
    """

    vectors: NDArray[np.float32]
    levels: NDArray[np.int64]
    words: list[NDArray[np.int64]]

    def joined(self, other: Spoken) -> Spoken:
        """Both."""
        return Spoken(
            np.concatenate([self.vectors, other.vectors]),
            np.concatenate([self.levels, other.levels]),
            [*self.words, *other.words],
        )


def spoken(
    texts: Sequence[str],
    windows: Sequence[NDArray[np.float32]],
    pooled: NDArray[np.float32] | None,
    llm: LoadedLLM,
    *,
    size: int = 16,
    offsets: Offsets | None = None,
) -> Spoken:
    """Pairs windows [w, d] and embeddings [n, d] of texts with their words.

    Args:
        texts: Of chunks.
        windows: Of each.
        pooled: Embedding of each; None leaves level 1 out.
        llm: Whose tokens.
        size: Tokens per window.
        offsets: Character spans of the encoder's tokens; without, windows share a text evenly.
    """
    vectors, levels, words = [], [], []
    for row, (text, own) in enumerate(zip(texts, windows, strict=True)):
        encoded = llm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, places = np.array(encoded["input_ids"]), np.array(encoded["offset_mapping"])
        if len(ids) < len(own) or not len(ids):
            continue
        if len(own):
            vectors.append(own)
            levels.append(np.zeros(len(own), np.int64))
            words += _parts(ids, places, len(own), None if offsets is None else offsets(text), size)
        if pooled is not None:
            vectors.append(pooled[[row]])
            levels.append(np.ones(1, np.int64))
            words.append(ids)
    if not vectors:
        raise InvalidInputError("there is no text to start the projector with")
    return Spoken(np.concatenate(vectors), np.concatenate(levels), words)


def _parts(
    ids: NDArray, places: NDArray, count: int, spans: NDArray[np.int64] | None, size: int
) -> list[NDArray[np.int64]]:
    if spans is None or len(spans) <= (count - 1) * size:
        return np.array_split(ids, count)
    starts = spans[::size, 0][:count]
    ends = np.append(starts[1:], spans[min(len(spans), count * size) - 1, 1])
    return [
        ids[(places[:, 1] > first) & (places[:, 0] < last)] for first, last in zip(starts, ends, strict=True)
    ]


def spoken_examples(examples: Examples, llm: LoadedLLM, offsets: Offsets | None = None) -> Spoken:
    """Vectors of the chunks that hold answers that are trained on; no other text is read."""
    chunks = sorted({one.chunk for one in examples.questions if not one.held_out and one.chunk >= 0})
    texts, found = [examples.texts[one] for one in chunks], []
    for place, kind in enumerate(examples.windows):
        windows = [examples.windows_of(one, kind) for one in chunks]
        size = int(kind.split("-")[-1])
        pooled = examples.pooled[chunks] if place == 0 else None
        found.append(spoken(texts, windows, pooled, llm, size=size, offsets=offsets))
    joined = found[0]
    for more in found[1:]:
        joined = joined.joined(more)
    return joined


def start_projector(
    projector: MemoryProjector,
    given: Spoken,
    llm: LoadedLLM,
    *,
    steps: int = 400,
    seed: int = 0,
    progress: bool = False,
) -> float:
    """Teaches a projector to tell the words behind a vector from others, by the LLM's own embeddings.

    Rare words weigh more. Afterwards soft tokens have the mean and the spread of the LLM's embeddings.

    Args:
        projector: Is changed.
        given: Vectors and words.
        llm: Whose embeddings.
        steps: Of AdamW.
        seed: Of the batches.
        progress: Show a progress bar.

    Returns:
        The last loss per word, in nats.
    """
    device = projector.inner.weight.device
    table = llm.embeddings.weight.detach().float().to(device)
    counts = np.bincount(np.concatenate(given.words), minlength=len(table))
    known = np.flatnonzero(counts)
    weights = np.maximum(np.log(counts.sum() / (counts + 1.0)) - _KNOWN_WORDS, 0.05)
    center = table[torch.from_numpy(known).to(device)].mean(dim=0)
    spread = (table - center).norm(dim=-1).mean()
    sharpness = torch.nn.Parameter((_SHARPNESS / spread**2).log())
    parameters = [*projector.parameters(), sharpness]
    optimizer, rng = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=0.01), np.random.default_rng(seed)
    vectors, levels = torch.from_numpy(given.vectors), torch.from_numpy(given.levels)
    loss = torch.zeros(())
    for step in tqdm(range(steps), desc="starting the projector", disable=not progress):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1.0, (step + 1) / 20, 2 * (1 - step / steps))
        rows = rng.integers(len(vectors), size=min(_BATCH, len(vectors)))
        words, targets = _targets([given.words[row] for row in rows], weights, known, rng)
        tokens = projector(vectors[rows].to(device), levels[rows].to(device))
        tokens = tokens.reshape(len(rows), -1, tokens.shape[-1]).mean(dim=1) - center
        scores = tokens @ (table[torch.from_numpy(words).to(device)] - center).T * sharpness.exp()
        loss = -(targets.to(device) * scores.log_softmax(dim=-1)).sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _rescale(projector, vectors, levels, center, spread)
    return float(loss.detach())


def _targets(
    batch: Sequence[NDArray[np.int64]],
    weights: NDArray[np.float64],
    known: NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], Tensor]:
    """Words [c] of the batch and some others, and each row's share of them [b, c]."""
    rows = np.repeat(np.arange(len(batch)), [len(one) for one in batch])
    flat = np.concatenate(batch)
    words = np.unique(np.concatenate([flat, rng.choice(known, min(_OTHERS, len(known)))]))
    targets = np.zeros((len(batch), len(words)))
    np.add.at(targets, (rows, np.searchsorted(words, flat)), weights[flat])
    targets /= np.maximum(targets.sum(axis=1, keepdims=True), 1e-9)
    return words, torch.from_numpy(targets).float()


@torch.no_grad()
def _rescale(
    projector: MemoryProjector, vectors: Tensor, levels: Tensor, center: Tensor, spread: Tensor
) -> None:
    device = center.device
    sample = torch.arange(0, len(vectors), max(1, len(vectors) // 1000))
    tokens = projector(vectors[sample].to(device), levels[sample].to(device))
    scale = spread / (tokens - center).norm(dim=-1).mean()
    projector.outer.weight.mul_(scale)
    repeated = center.repeat(projector.tokens_per_embedding)
    projector.outer.bias.copy_((projector.outer.bias - repeated) * scale + repeated)
