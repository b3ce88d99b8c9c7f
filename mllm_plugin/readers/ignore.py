"""What a walk leaves out: `.gitignore` files, as git reads them, and patterns given by the user."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from mllm_plugin.errors import InvalidInputError

_NAME = ".gitignore"


@dataclass(frozen=True)
class IgnoreRules:
    """The rules that hold in one folder: its own, those of the folders above, and the exclusions.

    Attributes:
        excluded: Where exclusions count from, and the exclusions.
        inherited: Each `.gitignore` with its folder, the nearest first.
        gitignore: Whether `.gitignore` files count.
    """

    excluded: tuple[Path, GitIgnoreSpec]
    inherited: tuple[tuple[Path, GitIgnoreSpec], ...] = ()
    gitignore: bool = True

    @classmethod
    def above(cls, root: Path, exclude: Sequence[str], gitignore: bool) -> IgnoreRules:
        """The rules that hold above a root: those of its repository, and exclusions relative to the root.

        Raises:
            InvalidInputError: An exclusion is no pattern.
        """
        try:
            excluded = GitIgnoreSpec.from_lines(exclude)
        except ValueError as error:
            raise InvalidInputError(f"--exclude: {error}; patterns are those of .gitignore") from error
        rules = cls((root, excluded), gitignore=gitignore)
        inherited = rules
        for folder in reversed(_folders_of_repository(root)):
            inherited = inherited.below(folder)
        return rules if inherited.leave_out(root, True) else inherited  # who names a folder wants it

    def below(self, folder: Path) -> IgnoreRules:
        """The rules that hold in a folder."""
        spec = _read(folder) if self.gitignore else None
        if spec is None:
            return self
        return IgnoreRules(self.excluded, ((folder, spec), *self.inherited), self.gitignore)

    def leave_out(self, path: Path, is_folder: bool) -> bool:
        """Whether a file or folder is left out; the nearest rule that says something decides."""
        if _matches(self.excluded, path, is_folder):
            return True
        answers = (_matches(rule, path, is_folder) for rule in self.inherited)
        return next((answer for answer in answers if answer is not None), False)


def _matches(rule: tuple[Path, GitIgnoreSpec], path: Path, is_folder: bool) -> bool | None:
    folder, spec = rule
    return spec.check_file(path.relative_to(folder).as_posix() + ("/" if is_folder else "")).include


def _folders_of_repository(root: Path) -> list[Path]:
    """The folders above a root up to the top of its repository, the nearest first; none outside of one."""
    if (root / ".git").exists():
        return []
    folders = list(root.parents)
    top = next((place for place, folder in enumerate(folders) if (folder / ".git").exists()), None)
    return [] if top is None else folders[: top + 1]


def _read(folder: Path) -> GitIgnoreSpec | None:
    try:
        lines = (folder / _NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return GitIgnoreSpec.from_lines(_valid(lines))


def _valid(lines: Iterable[str]) -> Iterator[str]:
    """The lines that are patterns; like git, passes over those that are none."""
    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:
            continue
        yield line
