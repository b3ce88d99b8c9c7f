"""Packages that only some uses need: an extra of this distribution installs them."""

from __future__ import annotations

from types import TracebackType

from mllm_plugin.errors import MissingDependencyError, MLLMError

_OWN = (
    "mllm_plugin",
    "langchain_mllm",
    "langgraph_mllm",
    "llama_index_mllm",
    "mem0_mllm",
    "openai_agents_mllm",
)


class needs:
    """Inside, an import that fails says which extra brings the package: `with needs("readers", "PDF")`.

    Args:
        extra: Its name in pyproject.toml.
        purpose: What the package is for.
        otherwise: What else the user can do.

    Raises:
        MissingDependencyError: A package imported inside is not installed, or not whole.
    """

    def __init__(self, extra: str, purpose: str, otherwise: str = "") -> None:
        self._extra, self._purpose, self._otherwise = extra, purpose, otherwise

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, ImportError) or isinstance(error, MLLMError):
            return
        package = (error.name or "").split(".")[0]
        if package in _OWN:
            return
        state = (
            f"the package {package}, which is not installed"
            if isinstance(error, ModuleNotFoundError)
            else f"packages of which one cannot be imported ({error})"
        )
        instead = f", or {self._otherwise}" if self._otherwise else ""
        raise MissingDependencyError(
            f"{self._purpose} needs {state}: pip install 'mllm-plugin[{self._extra}]'{instead}"
        ) from error
