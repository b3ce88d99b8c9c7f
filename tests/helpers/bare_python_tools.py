"""A Python that has only what pyproject.toml names: the core's dependencies, and extras when asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
_ENVIRONMENT: dict[str, Any] = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}


def bare_python(
    folder: Path, project: dict[str, Any], *, extras: Iterable[str] = (), alone: Iterable[str] = ()
):
    """Returns what runs code with the packages of the core and of extras, and some without their own needs.

    Args:
        folder: An empty one, for links to the packages.
        project: The table `project` of pyproject.toml.
        extras: Of the project.
        alone: Names of distributions.
    """
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    for found in [*_with_needs(wanted), *map(distribution, alone)]:
        for name in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            if not (folder / name).exists():
                (folder / name).symlink_to(Path(str(found.locate_file(name))))
    path = os.pathsep.join(map(str, (folder, ROOT, ROOT / "integrations")))

    def run(code: str, *arguments: object) -> str:
        command = [sys.executable, "-S", "-W", "error", "-c", code, *map(str, arguments)]
        environment = {**_ENVIRONMENT, "PYTHONPATH": path, "HOME": str(folder)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def _with_needs(wanted: Iterable[str]) -> Iterator[Distribution]:
    """Distributions with all that they need, each once."""
    left, seen = [(Requirement(one), "") for one in wanted], set()
    while left:
        requirement, extra = left.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        found = distribution(name)
        yield found
        for need in map(Requirement, found.requires or ()):
            left += [(need, extra) for extra in ("", *requirement.extras)]
