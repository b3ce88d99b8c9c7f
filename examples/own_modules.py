"""A level encoder, a ranker and a loss of one's own: swapped, trained, saved, loaded into a memory.

Runs offline: `python examples/own_modules.py`. Both modules scale every dimension by a trained gate; gates of
zero are the identity start.
"""

from pydoc_data.topics import topics
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.nn.functional import normalize

from mllm_plugin import Document, LexicalConfig, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.hierarchy import CosineRanker, Hierarchy, document_mark
from mllm_plugin.protocols import LevelEncoder, Ranker
from mllm_plugin.training import TrainingConfig, collect_samples, draw_grouping, draw_spans, fit

# so small that a few paragraphs make a tree, and that their words do not lead past it
CONFIG = MemoryConfig(tree=TreeConfig(fan_out=6), lexical=LexicalConfig(posting_limit=1))
QUESTION = "Which expression makes an anonymous function?"


class GatedMean(LevelEncoder):
    """The mean of the live children, every dimension times its gate."""

    kind = "gated-mean"

    def __init__(self, tensors):
        self.tensors = tensors

    def fold(self, children, live):
        """Folds children [c, r, d] with live [c] to [1, d]."""
        mean = children[live].astype(np.float64).sum(axis=(0, 1)) * (1 + self.tensors["gate"])
        return (mean / max(np.linalg.norm(mean), 1e-12)).astype(np.float16)[None]


class GatedCosine(Ranker):
    """The cosine, every dimension of the query times its gate."""

    kind = "gated-cosine"

    def __init__(self, tensors):
        self.tensors = tensors

    def score(self, queries, embeddings):
        """Scores embeddings [n, r, d] for queries [b, m, d]: [b, n]."""
        return CosineRanker().score(queries * (1 + self.tensors["gate"]), embeddings)


KINDS = {"gated-mean": GatedMean, "gated-cosine": GatedCosine}


def margin_loss(scores, targets):
    """Every wanted node shall beat the best unwanted one by a margin."""
    wanted = targets > 0
    rival = scores.masked_fill(wanted, float("-inf")).amax(dim=1, keepdim=True)
    short = (0.5 + rival - scores).clamp(min=0)
    return (short.masked_fill(~wanted, 0.0) * targets).sum(dim=1).mean()


def train_gates(samples, tree, steps=60):
    """Trains both gates on one level of nodes; a new grouping every ten steps."""
    gates = torch.zeros(2, samples.leaves.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([gates], lr=0.01)
    rows = np.flatnonzero(~samples.held_out)
    queries, rng = torch.from_numpy(samples.queries[rows]), np.random.default_rng(0)
    for step in range(steps):
        if step % 10 == 0:
            grouping = draw_grouping(samples.leaves, tree, most=len(samples.leaves), rng=rng)
            above = grouping.ancestors(np.arange(len(samples.leaves)), 2)
            members = torch.eye(grouping.sizes[0])[above].T @ torch.from_numpy(samples.leaves)
            wanted = torch.eye(grouping.sizes[0])[above[samples.targets[rows]]]
            wanted[samples.targets[rows] < 0] = 0  # a question with fewer answers
            shares = normalize(wanted.sum(dim=1), p=1, dim=1)
        nodes = normalize(members * (1 + gates[0]), dim=-1)
        loss = margin_loss(20 * (queries * (1 + gates[1])) @ nodes.T, shares)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [{"gate": gate.astype(np.float32)} for gate in gates.detach().numpy()]


def paragraphs():
    """Documents from the Python reference that every Python carries."""
    for name in ("lambda", "with", "function", "exceptions", "import", "class", "try", "for", "global"):
        for place, text in enumerate(topics[name].split("\n\n")):
            if len(text.split()) > 9:
                yield Document(text, id=f"{name}-{place}")


def main() -> None:
    """Trains the package's modules with the loss, then the own modules, and puts these in place."""
    with TemporaryDirectory() as folder:
        with MemoryIndex.open(f"{folder}/memory", config=CONFIG, hierarchy="identity") as memory:
            memory.add(paragraphs())
            samples = collect_samples(memory, *draw_spans(memory, 120), progress=False)

            quick = TrainingConfig(steps=20, evaluate_every=20, chunks=100, hidden=8, beam_width=8)
            fitted = fit(samples, CONFIG.tree, quick, loss=margin_loss, progress=False)
            print("The package's modules, your loss:", fitted.comparison.summary())

            encoder, ranker = train_gates(samples, CONFIG.tree)
            own = Hierarchy(level_encoders={2: GatedMean(encoder)}, rankers={2: GatedCosine(ranker)})
            seen = [document_mark((), document.id) for document in memory.documents()]
            own.save(f"{folder}/weights", encoder=memory.encoder.fingerprint, documents=seen)

            loaded = Hierarchy.load(f"{folder}/weights", kinds=KINDS)
            report = memory.install(loaded)
            print(f"Your modules: {report.nodes} nodes folded anew, verified: {memory.verify().ok}")
            print("Found:", memory.search(QUESTION, k=1, mode="beam")[0].document_id)
        with MemoryIndex.open(f"{folder}/memory", hierarchy=loaded) as memory:
            print("Found again:", memory.search(QUESTION, k=1, mode="beam")[0].document_id)
            print("Trained on it:", memory.remove(["lambda-2"]).weights == (loaded.fingerprint,))


if __name__ == "__main__":
    main()
