"""What the files of a model's folder say, read without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.models.pretrained import file_sha256

LONGEST = 512  # tokens, of a model that does not say how long its input may be
_SUPPORTED_MODULES = {"Transformer", "Pooling", "Normalize"}


class ModelFolder:
    """What a sentence-transformers folder says of pooling, length and prompts; defaults for a plain model."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        modules = self.json("modules.json") or []
        kinds = {module["type"].rsplit(".", 1)[-1] for module in modules}
        if unsupported := kinds - _SUPPORTED_MODULES:
            raise InvalidInputError(
                f"{folder}: module {', '.join(sorted(unsupported))} is not supported; wrap the model as a "
                f"LangChain Embeddings (HuggingFaceEmbeddings) and pass that as the encoder"
            )
        pooling_folder = next((m["path"] for m in modules if m["type"].endswith("Pooling")), "1_Pooling")
        self.pooling = self._pooling(self.json(f"{pooling_folder}/config.json") or {})
        self.max_length = (self.json("sentence_bert_config.json") or {}).get("max_seq_length")
        self._prompts = (self.json("config_sentence_transformers.json") or {}).get("prompts", {})

    def json(self, name: str) -> Any:
        """The value in one of the folder's files; None where there is no such file."""
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def prompt(self, *names: str) -> str:
        """The first of these prompts that the model has."""
        return next((self._prompts[name] for name in names if name in self._prompts), "")

    def fingerprint(self, kind: str, dim: int, settings: Sequence[Any]) -> str:
        """Changes whenever an embedding would: weights, tokenizer, pooling, prefixes, lengths."""
        digest = hashlib.sha256()
        for path in [*sorted(self.path.glob("*.safetensors")), self.path / "tokenizer.json"]:
            if path.is_file():
                digest.update(file_sha256(path).encode())
        digest.update(json.dumps([*settings]).encode())
        return f"hf:{kind}:{dim}:{digest.hexdigest()[:32]}"

    @staticmethod
    def _pooling(config: dict) -> str:
        if "pooling_mode" in config:
            return str(config["pooling_mode"])
        modes = [name for name, chosen in config.items() if name.startswith("pooling_mode_") and chosen]
        if not modes:
            return "mean"
        if len(modes) > 1:
            raise InvalidInputError(f"several poolings at once are not supported: {modes}; pass pooling=")
        return modes[0].removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
