"""The modules of the package and of the adapters, by their names."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def _modules(folder: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES: dict[str, dict[str, Path]] = {
    folder.name: _modules(folder)
    for folder in (ROOT / "mllm_plugin", *sorted((ROOT / "integrations").iterdir()))
    if (folder / "__init__.py").exists()
}
"""Of each top-level package, paths by module name."""
