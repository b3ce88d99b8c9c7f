"""The report on vulnerabilities never takes "nobody could look" for "nothing found"."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

report = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "reliability" / "audit.py"))["report"]
CLEAN = {"name": "clean", "version": "1", "vulns": []}
UNKNOWN = {"name": "own", "skip_reason": "not found on PyPI"}
BAD = {
    "name": "bad",
    "version": "2",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"]}],
}
KNOWN = {"name": "diskcache", "version": "5", "vulns": [{"id": "CVE-2025-69872", "fix_versions": []}]}


@pytest.mark.parametrize(
    ("dependencies", "expected"),
    [
        ([], ["skipped: the database of vulnerabilities knows none of the packages, or cannot be reached"]),
        (
            [UNKNOWN],
            ["skipped: the database of vulnerabilities knows none of the packages, or cannot be reached"],
        ),
        ([CLEAN, UNKNOWN], ["1 packages looked up, 0 vulnerabilities, 1 packages unknown"]),
        (
            [BAD],
            [
                "bad 2: PYSEC-1 CVE-1; fixed in 3",
                "1 packages looked up, 1 vulnerabilities, 0 packages unknown",
            ],
        ),
        (
            [KNOWN],
            [
                "diskcache 5: CVE-2025-69872; diskcache unpickles what it stores: here it never does "
                "(store/cache.py)",
                "1 packages looked up, 1 vulnerabilities, 0 packages unknown",
            ],
        ),
    ],
    ids=["nothing", "unknown", "clean", "bad", "answered"],
)
def test_the_report(dependencies, expected):
    assert report(dependencies) == expected
