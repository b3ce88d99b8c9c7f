"""What `verify` remembers of a namespace agrees with plain dictionaries and sets."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mllm_plugin.store import tallies
from mllm_plugin.store.tallies import Homes, Tally, TermTally

ROWS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b"]), st.integers(0, 3)), unique=True)
GROUPS = st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=6), max_size=6)


@given(first=ROWS, second=ROWS)
def test_tallies_agree_when_the_rows_do(first, second):
    one, other = Tally(), Tally()
    one.add(first)
    other.add(reversed(second))
    assert (one == other) == (set(first) == set(second))


@given(groups=GROUPS, change=st.integers(0, 12), waiting=st.sampled_from([1, 5, 1000]))
def test_terms_are_counted(groups, change, waiting):
    tally, live, total = TermTally(), Counter(), Counter()
    before, tallies._WAITING = tallies._WAITING, waiting
    for group in groups:
        tally.add(np.array([term for term, _ in group], np.uint32), np.array([one for _, one in group], bool))
        live.update(term for term, one in group if one)
        total.update(term for term, _ in group)
    tallies._WAITING = before
    rows = [(term, live[term], total[term]) for term in sorted(total)]
    assert tally.equals(iter(rows))
    assert not tally.equals(iter([*rows, (99, 1, 1)]))
    if rows:
        assert not tally.equals(iter(rows[:-1]))
        term, alive, all_ = rows[change % len(rows)]
        assert not tally.equals(iter(sorted([*(set(rows) - {(term, alive, all_)}), (term, alive + 1, all_)])))


@given(groups=GROUPS)
def test_homes_are_found(groups):
    homes, known, twice = Homes(), {}, set()
    for node, group in enumerate(groups):
        own = dict(group)
        homes.add(node, np.array(list(own), np.int64), np.array([int(one) for one in own.values()], np.int64))
        twice |= own.keys() & known.keys()
        known = {chunk: (node, int(live)) for chunk, live in own.items()} | known
    assert homes.repeated() == sorted(twice)
    assert [homes.of(chunk) for chunk in range(11)] == [known.get(chunk, (None, None)) for chunk in range(11)]
    assert homes.alive == sum(live for group in groups for live in dict(group).values())
