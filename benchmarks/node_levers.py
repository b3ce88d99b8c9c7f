r"""What other shapes of nodes and beams would give: routing simulated on arrays, nothing trained.

    python benchmarks/node_levers.py --data DIR

The memory, the questions and the exact answers of routing.py. Each line changes one thing about the walk over
untrained nodes: how narrow the beam is above the lowest nodes, how large nodes are, whether a chunk or a node
also hangs below its second-nearest parent, how many vectors a node has, whether it carries the spread of its
children, whether the best chunks found so far steer the rest of the walk. Every vector that is compared with
the query counts as scored.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from common import cached_encoder, cached_memory, machine, parser, print_table, trained_copy
from numpy.typing import NDArray
from routing import Point, at_share, documents, exact_answers, prepare, questions

from mllm_plugin import ChunkingConfig, MemoryIndex, TreeConfig
from mllm_plugin.training.routing.evaluate import members_of
from mllm_plugin.training.routing.grouping import draw_grouping, node_means
from mllm_plugin.training.routing.samples import read_leaves, routed_chunks

WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SHARES = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08)
_LEAST = 4
Rows = NDArray[np.int64]
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Asked:
    """Questions [m, d], rows of their ten best chunks, and rows that rare words lead to."""

    queries: Matrix
    answers: Sequence[Rows]
    routed: Sequence[Rows]


@dataclass(frozen=True)
class Tree:
    """Nodes of every level from 2 up.

    Attributes:
        leaves: Chunk embeddings [n, d].
        parents: Node above each embedding, per level from the chunks up.
        members: Rows below each node, per level from 2 up; overlap puts a row below two nodes.
        means: Normalised means of each level's nodes.
        scores: Scores of each level's nodes [g, m].
        cost: Vectors scored per node, per level.
    """

    leaves: Matrix
    parents: list[Rows]
    members: list[list[Rows]]
    means: list[Matrix]
    scores: list[Matrix]
    cost: list[int]

    @classmethod
    def grow(cls, leaves: Matrix, queries: Matrix, fan_out: tuple[int, ...]) -> Tree:
        """Groups all chunks as a build does."""
        rng = np.random.default_rng(0)
        grouping = draw_grouping(leaves, TreeConfig(fan_out=fan_out), most=len(leaves), rng=rng)
        means, below = [], leaves
        for parent in grouping.parents:
            below = node_means(below, parent)
            means.append(below)
        members = [members_of(parent) for parent in grouping.parents]
        scores = [mean @ queries.T for mean in means]
        return cls(leaves, list(grouping.parents), members, means, scores, [1] * len(means))

    def overlapped(self, level: int, share: float) -> Tree:
        """A share of the embeddings below a level, those nearest to it, also hang below a second node."""
        children = self.leaves if level == 0 else self.means[level - 1]
        likeness = children @ self.means[level].T
        rows = np.arange(len(children))
        own = likeness[rows, self.parents[level]]
        likeness[rows, self.parents[level]] = -2
        second = likeness.argmax(axis=1)
        gap = own - likeness[rows, second]
        guests = np.flatnonzero(gap <= np.quantile(gap, share))
        more = [np.concatenate([m, guests[second[guests] == n]]) for n, m in enumerate(self.members[level])]
        return replace(self, members=[*self.members[:level], more, *self.members[level + 1 :]])

    def with_vectors(self, queries: Matrix, count: int) -> Tree:
        """Lowest nodes have several centroids; the best one counts."""
        scores = np.stack([(_centroids(self.leaves[m], count) @ queries.T).max(0) for m in self.members[0]])
        return replace(self, scores=[scores, *self.scores[1:]], cost=[count, *self.cost[1:]])

    def with_spread(self, queries: Matrix, rank: int, weight: float) -> Tree:
        """Lowest nodes add the standard deviation of their children along the query, from few directions."""
        spread = np.stack([_deviation(self.leaves[m], queries, rank) for m in self.members[0]])
        scores = self.scores[0] + weight * spread
        return replace(self, scores=[scores, *self.scores[1:]], cost=[1 + rank, *self.cost[1:]])


def _centroids(rows: Matrix, count: int) -> Matrix:
    """Normalised k-means centroids; the rows themselves where there are no more."""
    if len(rows) <= count:
        return rows
    centers = rows[:: max(1, len(rows) // count)][:count]
    for _ in range(6):
        home = (rows @ centers.T).argmax(axis=1)
        sums = np.stack(
            [rows[home == one].sum(0) if (home == one).any() else centers[one] for one in range(count)]
        )
        centers = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return centers


def _deviation(rows: Matrix, queries: Matrix, rank: int) -> Matrix:
    if len(rows) < 2:
        return np.zeros(len(queries), np.float32)
    _, sizes, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    along = (directions[:rank] * sizes[:rank, None]) @ queries.T
    return np.sqrt((along**2).sum(axis=0) / len(rows))


Reach = Callable[[Tree, int, int, Asked], tuple[Rows, int]]


def descend(tree: Tree, place: int, width: int, narrow: float) -> tuple[Rows, int]:
    """Lowest nodes kept, best first, and vectors scored on the way."""
    nodes, cost = np.arange(len(tree.means[-1])), 0
    for level in range(len(tree.means) - 1, -1, -1):
        cost += len(nodes) * tree.cost[level]
        kept = width if level == 0 else max(_LEAST, round(width * narrow))
        nodes = nodes[np.argsort(-tree.scores[level][nodes, place], kind="stable")[:kept]]
        if level:
            nodes = np.unique(np.concatenate([tree.members[level][node] for node in nodes]))
    return nodes, cost


def plain(narrow: float) -> Reach:
    """A beam that is `narrow` times as wide above the lowest nodes."""

    def reach(tree: Tree, place: int, width: int, asked: Asked) -> tuple[Rows, int]:
        nodes, cost = descend(tree, place, width, narrow)
        return np.unique(np.concatenate([tree.members[0][node] for node in nodes])), cost

    return reach


def slack(narrow: float, most: int) -> Reach:
    """Keeps nodes within a slack of the tenth-best chunk seen in the first eight; `width` sets it."""

    def reach(tree: Tree, place: int, width: int, asked: Asked) -> tuple[Rows, int]:
        nodes, cost = descend(tree, place, most, narrow)
        first = np.concatenate([*(tree.members[0][node] for node in nodes[:8]), asked.routed[place]])
        found = np.sort(tree.leaves[first] @ asked.queries[place])
        least = found[-min(10, len(found))] - 0.3 * width / WIDTHS[-1]
        kept = max(8, int((tree.scores[0][nodes, place] >= least).sum()))
        return np.unique(np.concatenate([tree.members[0][node] for node in nodes[:kept]])), cost

    return reach


def feedback(narrow: float, weight: float) -> Reach:
    """The three best chunks of the first half of the beam help to choose the other half."""

    def reach(tree: Tree, place: int, width: int, asked: Asked) -> tuple[Rows, int]:
        nodes, cost = descend(tree, place, 2 * width, narrow / 2)
        first, rest = nodes[: width // 2], nodes[width // 2 :]
        rows = np.concatenate([tree.members[0][node] for node in first])
        best = tree.leaves[rows[np.argsort(-(tree.leaves[rows] @ asked.queries[place]))[:3]]].mean(axis=0)
        scores = tree.scores[0][rest, place] + weight * tree.means[0][rest] @ (best / np.linalg.norm(best))
        chosen = [first, rest[np.argsort(-scores)[: width - len(first)]]]
        reached = [tree.members[0][node] for node in np.concatenate(chosen)]
        return np.unique(np.concatenate(reached)), cost + len(rest)

    return reach


def curve(tree: Tree, asked: Asked, reach: Reach) -> list[Point]:
    """Recall and share scored at many widths."""
    points = []
    for width in WIDTHS:
        recall, scored = np.zeros(len(asked.queries)), np.zeros(len(asked.queries))
        for place, answer in enumerate(asked.answers):
            rows, cost = reach(tree, place, width, asked)
            rows = np.union1d(rows, asked.routed[place])
            recall[place] = np.isin(answer, rows).mean()
            scored[place] = (cost + len(rows)) / len(tree.leaves)
        points.append(Point(f"beam {width}", recall, scored))
    return points


def levers(leaves: Matrix, asked: Asked) -> dict[str, list[Point]]:
    """Every lever's curve."""
    tree = Tree.grow(leaves, asked.queries, (16, 32))
    own = [
        ("the same beam on every level", tree, plain(1.0)),
        ("half as wide above the lowest nodes", tree, plain(0.5)),
        ("**a quarter**", tree, plain(0.25)),
        ("an eighth", tree, plain(0.125)),
        ("a quarter, nodes of 8 then 32", Tree.grow(leaves, asked.queries, (8, 32)), plain(0.25)),
        ("a quarter, nodes of 16 then 16", Tree.grow(leaves, asked.queries, (16, 16)), plain(0.25)),
        ("a quarter, nodes of 24 then 24", Tree.grow(leaves, asked.queries, (24, 24)), plain(0.25)),
        ("a quarter, 30 % of the chunks in two nodes", tree.overlapped(0, 0.3), plain(0.25)),
        ("a quarter, every chunk in two nodes", tree.overlapped(0, 1.0), plain(0.25)),
        ("a quarter, every lowest node below two", tree.overlapped(1, 1.0), plain(0.25)),
        ("a quarter, two vectors a lowest node", tree.with_vectors(asked.queries, 2), plain(0.25)),
        ("a quarter, spread of 2 directions", tree.with_spread(asked.queries, 2, 1.0), plain(0.25)),
        ("a quarter, spread of 4 directions", tree.with_spread(asked.queries, 4, 1.0), plain(0.25)),
        ("a quarter, the best chunks steer the rest", tree, feedback(0.25, 1.0)),
        ("a slack in place of a width", tree, slack(0.15, 256)),
        ("a slack, 30 % of the chunks in two nodes", tree.overlapped(0, 0.3), slack(0.15, 256)),
    ]
    free = replace(tree, cost=[0] * len(tree.means))
    full = replace(free.with_spread(asked.queries, 384, 2.0), cost=free.cost)
    own += [
        ("nodes for nothing: means", free, plain(1.0)),
        ("nodes for nothing: spread of all directions", full, plain(1.0)),
    ]
    return {name: curve(shape, asked, reach) for name, shape, reach in own}


def gather(options: Namespace) -> tuple[Matrix, Asked]:
    """Chunks, questions and exact answers of the routing memory."""
    encoder = cached_encoder(options.cache)
    chunking = ChunkingConfig(chunk_tokens=254)
    memory = cached_memory("routing", lambda: documents(options), encoder, options.cache, chunking=chunking)
    texts, _ = questions(memory, options)
    queries = prepare(memory, texts)
    copy = trained_copy(memory, "default", options.cache / "memories" / "routing.trained")
    with MemoryIndex.open(copy, encoder=encoder) as trained:
        answers = exact_answers(trained, texts)
    ids, leaves = read_leaves(memory)
    order = np.argsort(ids)

    def rows(chosen: set[int]) -> Rows:
        return order[np.searchsorted(ids[order], sorted(chosen))]

    routed = [rows(chunk) for chunk in routed_chunks(memory, queries)]
    memory.close()
    matrix = np.stack([query.vectors[0] for query in queries])
    return leaves, Asked(matrix, [rows(answer) for answer in answers], routed)


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--limit", type=int, default=500, help="questions at most")
    arguments.set_defaults(
        sets=["medquad", "cuad", "squad"], split="dev", spans=0, most=None, chunk_tokens=254
    )
    options = arguments.parse_args()
    print(f"On {machine()}; encoder all-MiniLM-L6-v2.\n")
    leaves, asked = gather(options)
    print(
        f"{len(leaves)} chunks, {len(asked.queries)} questions of `dev`. Missed of the exact top 10, in %\n"
    )
    rows = []
    for name, points in levers(leaves, asked).items():
        missed = [100 * (1 - at_share(points, share)) for share in SHARES]
        rows.append([name, *("" if np.isnan(one).any() else f"{one.mean():.2f}" for one in missed)])
    print_table(["scored", *(f"{100 * share:g} %" for share in SHARES)], rows)


if __name__ == "__main__":
    main()
