"""What makes a language model read a memory: a projector and, where it helps, LoRA; JSON + safetensors."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mllm_plugin.errors import InvalidInputError, NotFoundError
from mllm_plugin.hierarchy.weights import document_mark
from mllm_plugin.llm import lora
from mllm_plugin.llm.models import LoadedLLM
from mllm_plugin.llm.projector import MemoryProjector

CONFIG_NAME = "adapter.json"
TENSORS_NAME = "adapter.safetensors"
_PROJECTOR, _LORA = "projector.", "lora."


class AdapterConfig(BaseModel):
    """What an adapter is made for and of.

    Args:
        format_version: Of this layout.
        llm: Fingerprint of the language model.
        llm_name: Its name, for messages.
        encoder: Fingerprint of the Encoder 1 that made the embeddings.
        encoders: Of further ones whose embeddings it reads, such as the same with other windows.
        dim: Dimensions of an embedding.
        hidden: Width of the model's input.
        width: Units between the projector's layers.
        tokens_per_embedding: Soft tokens that an embedding becomes.
        levels: Levels told apart, 0 (windows) up; higher ones count as the highest.
        lora_rank: 0 for none.
        lora_alpha: Scale of the changes, relative to the rank.
        lora_targets: Layers changed, by name; all linear ones but the output layer by default.
        reading: Settings of a `MemoryLLM` that suit it where it reads embeddings, by name; whoever uses it
            may set others.
        documents: Marks of the user's documents that the training saw, see `document_mark`.
        about: Data, command, seeds, figures; for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = Field(default=1, le=1)
    llm: str
    llm_name: str
    encoder: str
    encoders: tuple[str, ...] = ()
    dim: int = Field(ge=1)
    hidden: int = Field(ge=1)
    width: int = Field(default=1024, ge=1)
    tokens_per_embedding: int = Field(default=1, ge=1)
    levels: int = Field(default=4, ge=1)
    lora_rank: int = Field(default=16, ge=0)
    lora_alpha: float = Field(default=32.0, gt=0)
    lora_targets: str | tuple[str, ...] = lora.ALL_LINEAR
    reading: dict[str, Any] = {}
    documents: tuple[str, ...] = ()
    about: dict[str, Any] = {}

    def fits(self, llm: LoadedLLM, encoder: str) -> bool:
        """Whether it is made for a model and an encoder, by the encoder's fingerprint."""
        return encoder in (self.encoder, *self.encoders) and self.llm == llm.fingerprint


class Adapter:
    """A projector and, where `config.lora_rank` is not 0, changes to the model.

    Args:
        config: What it is.
        projector: Embeddings to soft tokens.
        tensors: Trained LoRA values; None to start at nothing.

    Attributes:
        config, projector: As given.
    """

    def __init__(
        self, config: AdapterConfig, projector: MemoryProjector, tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        self.config, self.projector = config, projector
        self._tensors = tensors
        self._name = f"memory-{uuid.uuid4().hex[:12]}"
        self._models: list[Any] = []
        self._added: MutableMapping[Any, dict[str, Tensor]] = WeakKeyDictionary()

    @classmethod
    def create(cls, llm: LoadedLLM, *, encoder: str, dim: int, seed: int = 0, **settings: Any) -> Adapter:
        """An untrained adapter whose soft tokens start like the model's own embeddings.

        Args:
            llm: The model that will read.
            encoder: Fingerprint of the memory's encoder.
            dim: Dimensions of the memory's embeddings.
            seed: Of the projector's first values.
            settings: Further fields of `AdapterConfig`.
        """
        config = AdapterConfig(
            llm=llm.fingerprint, llm_name=llm.name, encoder=encoder, dim=dim, hidden=llm.hidden, **settings
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            projector = _projector(config)
        projector.start_like(llm.embeddings.weight.detach(), seed=seed)
        return cls(config, projector)

    # -- soft tokens

    def soft_tokens(self, vectors: Any, levels: Any) -> Tensor:
        """Projects embeddings [n, dim] of levels [n] to soft tokens [n * tokens_per_embedding, hidden]."""
        weight = self.projector.inner.weight
        given = torch.as_tensor(vectors, dtype=weight.dtype, device=weight.device)
        return self.projector(given, torch.as_tensor(levels, dtype=torch.long, device=weight.device))

    # -- changes to the model

    def attach(self, model: Any, *, dropout: float = 0.0) -> None:
        """Puts the changes on a model, switched on; does nothing where there are none or they are on it."""
        if not self.config.lora_rank or any(model is known for known in self._models):
            return
        lora.put_on(
            model,
            self._name,
            rank=self.config.lora_rank,
            alpha=self.config.lora_alpha,
            dropout=dropout,
            targets=self.config.lora_targets,
            tensors=self._tensors,
        )
        self._models.append(model)

    def detach(self, model: Any) -> None:
        """Takes the changes off a model, which then is what it was; the adapter keeps their values."""
        if any(model is known for known in self._models):
            self._tensors = self.lora_tensors()
            self._added.clear()
            lora.take_off(model, self._name)
            self._models = [known for known in self._models if known is not model]

    @contextmanager
    def enabled(self, model: Any) -> Iterator[None]:
        """Inside, the model has the changes; afterwards it is as before."""
        with lora.switched(model, None):
            self.attach(model)
            lora.switch(model, self._name if self.config.lora_rank else None)
            yield

    @contextmanager
    def applied(self, model: Any) -> Iterator[None]:
        """Inside, the model writes with the changes at no cost per token; for use, not for training."""
        if any(model is known for known in self._models):
            with self.enabled(model):
                yield
            return
        if model not in self._added:
            scale = self.config.lora_alpha / max(1, self.config.lora_rank)
            self._added[model] = lora.added(model, self._tensors or {}, scale)
        with lora.switched(model, None), lora.in_place(model, self._added[model]):
            yield

    @staticmethod
    @contextmanager
    def disabled(model: Any) -> Iterator[None]:
        """Inside, the model is untouched, whatever is attached to it; afterwards it is as before."""
        with lora.switched(model, None):
            yield

    def lora_tensors(self) -> dict[str, Tensor]:
        """The changes' values, from the model that they are on (copies on the CPU)."""
        found = lora.tensors_of(self._models[-1], self._name) if self._models else self._tensors or {}
        return {name: value.float().cpu().clone() for name, value in found.items()}

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Everything that training changes: the projector, and the LoRA of models it is attached to."""
        yield from self.projector.parameters()
        for model in self._models:
            yield from (value for key, value in model.named_parameters() if f".{self._name}." in key)

    # -- files

    def has_seen(self, document_id: str, namespace: tuple[str, ...] = ()) -> bool:
        """Whether the training saw a document of the user's."""
        return document_mark(namespace, document_id) in self.config.documents

    def save(self, folder: str | Path, **changes: Any) -> None:
        """Writes both files, numbers as fp16.

        Args:
            folder: Made when it is not there.
            changes: Fields of the configuration to replace, such as `about` or `documents`.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        config = AdapterConfig.model_validate({**self.config.model_dump(), **changes})
        (target / TENSORS_NAME).write_bytes(save(self._stored()))
        (target / CONFIG_NAME).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def _stored(self) -> dict[str, Tensor]:
        named = {f"{_PROJECTOR}{name}": value for name, value in self.projector.state_dict().items()}
        named |= {f"{_LORA}{name}": value for name, value in self.lora_tensors().items()}
        return {name: named[name].detach().cpu().to(torch.float16).contiguous() for name in sorted(named)}

    @classmethod
    def load(cls, folder: str | Path) -> Adapter:
        """Reads what `save` wrote.

        Raises:
            NotFoundError: A file is missing.
            InvalidInputError: They cannot be read as an adapter.
        """
        source = Path(folder)
        for name in (CONFIG_NAME, TENSORS_NAME):
            if not (source / name).is_file():
                raise NotFoundError(f"no adapter in {source}: {name} is missing; `mllm train-llm` makes one")
        try:
            config = AdapterConfig.model_validate_json((source / CONFIG_NAME).read_text(encoding="utf-8"))
            tensors = {
                name: value.float() for name, value in load((source / TENSORS_NAME).read_bytes()).items()
            }
            projector = _projector(config)
            projector.load_state_dict(_below(tensors, _PROJECTOR))
        except (ValidationError, SafetensorError, RuntimeError) as error:
            raise InvalidInputError(f"the adapter in {source} cannot be read: {error}") from error
        return cls(config, projector, _below(tensors, _LORA) or None)


def shipped_adapter(llm: LoadedLLM, encoder: str) -> Adapter | None:
    """The adapter that comes with the package for a model and an encoder's fingerprint; None without one."""
    folder = files("mllm_plugin") / "trained"
    for source in folder.iterdir() if folder.is_dir() else ():
        if (source / CONFIG_NAME).is_file():
            config = AdapterConfig.model_validate_json((source / CONFIG_NAME).read_text(encoding="utf-8"))
            if config.fits(llm, encoder):
                with as_file(source) as path:
                    return Adapter.load(path)
    return None


def _projector(config: AdapterConfig) -> MemoryProjector:
    return MemoryProjector(
        config.dim,
        config.hidden,
        width=config.width,
        tokens_per_embedding=config.tokens_per_embedding,
        levels=config.levels,
    )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
