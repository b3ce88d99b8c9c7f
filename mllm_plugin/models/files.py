"""Loads tokenizers and models with transformers, and says what is wrong with files that make no model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mllm_plugin.errors import InvalidInputError, MLLMError, ModelNotFoundError
from mllm_plugin.extras import needs
from mllm_plugin.models.pretrained import no_progress_bars

_POINTER = b"version https://git-lfs.github.com/spec/"
_KINDS = ("*.json", "*.txt", "*.model", "*.safetensors", "*.jinja")
_NEEDED_WORDS = 0.75  # of the model's; embeddings are padded by some per cent at most
_PROBES = (
    ("The tide is high at nine.", "Peter has bought a green bicycle."),
    ("Прилив начинается в девять.", "Пётр купил велосипед."),
    ("涨潮在九点。", "他买了一辆自行车。"),
    ("満潮は九時です。", "自転車を買いました。"),
    ("المد عال في التاسعة.", "اشترى دراجة خضراء."),
    ("ज्वार नौ बजे आता है।", "उसने साइकिल खरीदी।"),
    ("น้ำขึ้นเก้าโมง", "เขาซื้อจักรยาน"),
    ("만조는 아홉 시입니다.", "자전거를 샀습니다."),
)


def choose_device(name: Any = None) -> Any:
    """The device of a name; CUDA, if there is one, when it is left out.

    Raises:
        InvalidInputError: This machine has no such device.
    """
    with needs("local", "a model"):
        import torch
    try:
        fastest = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(fastest if name is None else name)
        torch.ones(1, device=device).item()
    except Exception as error:  # torch raises three kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInputError(
            f"device {name!r} cannot be used here: {reason:.200}. Leave it out, or name one that is there "
            f"(CUDA devices: {torch.cuda.device_count()})"
        ) from error
    return device


def load_tokenizer(name: str | Path, folder: Path, why_fast: str) -> Any:
    """The fast tokenizer of a folder.

    Raises:
        ModelNotFoundError: There is no fast one; `why_fast` says what needs it.
        InvalidInputError: Its files are damaged or missing.
    """
    with needs("local", f"the tokenizer of {name}"):
        from transformers import AutoTokenizer
    with explained(name, folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ModelNotFoundError(f"{name}: no fast tokenizer (tokenizer.json), {why_fast}")
    return tokenizer


def load_model(
    name: str | Path, folder: Path, kind: str, *, dtype: Any, device: Any, unused: Sequence[str] = ()
) -> Any:
    """The model of a folder with all of its weights, in evaluation mode.

    Args:
        name: As it was asked for.
        folder: Where its files are.
        kind: Name of the class of transformers that loads it.
        dtype: A torch dtype.
        device: Where it goes.
        unused: Parts of names of weights that may be missing.

    Raises:
        ModelNotFoundError: There are no weights that can be loaded safely.
        InvalidInputError: Files are damaged, of a kind that this transformers does not know, or incomplete.
    """
    with needs("local", f"the model {name}"):
        import transformers
    if not any(folder.glob("*.safetensors*")):
        raise ModelNotFoundError(f"{name}: no *.safetensors in {folder}; pickled weights are never loaded")
    with explained(name, folder), no_progress_bars():
        model, report = getattr(transformers, kind).from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype,
            output_loading_info=True,
        )
        if getattr(model.config, "quantization_config", None) and not getattr(model, "hf_quantizer", None):
            raise ValueError("transformers does not know how its weights are quantised")
        check_weights(name, folder, report, unused)
        return model.eval().to(device)


def check_weights(name: str | Path, folder: Path, report: dict[str, Any], unused: Sequence[str] = ()) -> None:
    """Refuses a model some of whose weights were not in its files but drawn at random.

    Args:
        name: As it was asked for.
        folder: Where its files are.
        report: What `from_pretrained` says with `output_loading_info`.
        unused: Parts of names of weights that may be missing.
    """
    missing = sorted(key for key in report["missing_keys"] if not any(part in key for part in unused))
    if missing:
        raise InvalidInputError(
            f"{_where(name, folder)} is incomplete: {len(missing)} of its weights are not in the files and "
            f"would be random, among them {', '.join(missing[:3])}. Fetch the model again, or take one whose "
            f"files hold all of it"
        )


def readable_texts(name: str | Path, folder: Path, tokenizer: Any, words: int) -> tuple[str, str]:
    """Two unrelated texts in a script that the tokenizer knows.

    Args:
        name: As the model was asked for.
        folder: Where its files are.
        tokenizer: The model's.
        words: How many tokens the model has embeddings of.

    Raises:
        InvalidInputError: It knows none, or far fewer tokens than the model: its files are not there.
    """
    known = [pair for pair in _PROBES if all(_known(tokenizer, text) > 0.5 for text in pair)]
    if known and len(tokenizer) >= _NEEDED_WORDS * words:
        return known[0]
    reason = damage(folder) or "files such as tokenizer.json are missing or not this model's"
    raise InvalidInputError(
        f"the tokenizer of {_where(name, folder)} knows {len(tokenizer)} tokens, the model {words}, and of "
        f"plain words it reads {'some' if known else 'none'}: {reason}. Fetch the model again"
    )


def _known(tokenizer: Any, text: str) -> float:
    """The share of a text's tokens that are not the one for unknown words."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return sum(token != tokenizer.unk_token_id for token in ids) / max(1, len(ids))


def _where(name: str | Path, folder: Path) -> str:
    return f"{name}" if str(name) == str(folder) else f"{name} in {folder}"


@contextmanager
def explained(name: str | Path, folder: Path) -> Iterator[None]:
    """Inside, whatever a library raises becomes an error that says what is wrong with the files.

    Raises:
        InvalidInputError: Something was raised inside.
    """
    try:
        yield
    except MLLMError:
        raise
    except Exception as error:  # of json, tokenizers, safetensors, torch, transformers and what it needs
        reason = damage(folder) or f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
        raise InvalidInputError(
            f"{_where(name, folder)} cannot be loaded: {reason}. Fetch it again, choose another model, or "
            f"update transformers; code that comes with a model is never run"
        ) from error


def damage(folder: Path) -> str | None:
    """What is wrong with a model's files, as far as looking at them tells."""
    for path in sorted(one for kind in _KINDS for one in folder.rglob(kind) if one.is_file()):
        if is_pointer(path):
            return f"{path.name} is a Git LFS pointer and not the file itself (run `git lfs pull` there)"
        if path.suffix == ".json" and not _is_json(path):
            return f"{path.name} is cut short or no JSON"
        if path.suffix == ".safetensors" and not _is_whole(path):
            return f"{path.name} is cut short or no safetensors file"
    return _quantised(folder)


def is_pointer(file: Path) -> bool:
    """Whether a file is what Git LFS leaves in its place."""
    with file.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def _is_whole(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return True
    except (SafetensorError, OSError):
        return False


def _quantised(folder: Path) -> str | None:
    path = folder / "config.json"
    config = json.loads(path.read_bytes()) if path.is_file() else {}
    if not isinstance(config, dict):
        return f"{path.name} is no configuration of a model"
    found = config.get("quantization_config")
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else found
    return (
        f"its weights are quantised ({method}), which cannot be read here; take the original with weights of "
        f"16 or 32 bits"
    )
