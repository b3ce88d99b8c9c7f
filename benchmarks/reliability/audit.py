"""Known vulnerabilities of the installed packages, by pip-audit: a report, which never fails a build.

    python benchmarks/reliability/audit.py

Says so when the database cannot be reached, or knows none of the packages, as behind a mirror.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

_ANSWERED = {"CVE-2025-69872": "diskcache unpickles what it stores: here it never does (store/cache.py)"}


def report(dependencies: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a report.

    Args:
        dependencies: As pip-audit's JSON has them: name, version, vulns; or name and skip_reason.
    """
    looked_up = [dependency for dependency in dependencies if "vulns" in dependency]
    if not looked_up:
        return ["skipped: the database of vulnerabilities knows none of the packages, or cannot be reached"]
    lines = []
    for one in looked_up:
        for found in one["vulns"]:
            names = [found["id"], *found.get("aliases", ())]
            answer = next((_ANSWERED[name] for name in names if name in _ANSWERED), None)
            fixed = ", ".join(found.get("fix_versions", ())) or "no release"
            lines.append(
                f"{one['name']} {one['version']}: {' '.join(names)}; {answer or f'fixed in {fixed}'}"
            )
    unknown = len(dependencies) - len(looked_up)
    lines.append(
        f"{len(looked_up)} packages looked up, {len(lines)} vulnerabilities, {unknown} packages unknown"
    )
    return lines


def main() -> None:
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        found = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError, KeyError):
        print("skipped: pip-audit could not run, or its database could not be reached")
        return
    print(*report(found), sep="\n")


if __name__ == "__main__":
    main()
