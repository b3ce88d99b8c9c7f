"""Files that make no encoder are refused with words; what has all of its weights and words is taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mllm_plugin import InvalidInputError, ModelNotFoundError
from mllm_plugin.encoders import resolve
from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from mllm_plugin.models.files import choose_device
from tests.helpers.tiny_encoder import write_tiny_encoder

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 90868376\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "model"))


def edited(name, edit):
    """Changes the tensors, or the JSON, of a file."""

    def change(folder: Path) -> None:
        path = folder / name
        if path.suffix == ".safetensors":
            save_file(edit(load_file(path)), path, metadata={"format": "pt"})
        else:
            path.write_text(json.dumps(edit(json.loads(path.read_text()))))

    return change


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def halved(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[: -len(name) * 20])


def without(*names):
    return lambda folder: [path.unlink() for name in names for path in folder.glob(name)]


def without_weights(part):
    return edited("model.safetensors", lambda tensors: {n: t for n, t in tensors.items() if part not in n})


def quantised(method):
    return edited("config.json", lambda config: config | {"quantization_config": {"quant_method": method}})


_NAN, _LAYER = np.float32("nan"), "encoder.layer.1.output.dense.weight"
_WEIGHTS, _WORDS = "model.safetensors", "tokenizer.json"
DAMAGED = {
    "no-tokenizer": (without("tokenizer*"), "the tokenizer of .* cannot be|knows .* tokens, the model 92"),
    "other-tokenizer": (
        edited(_WORDS, lambda found: found | {"model": found["model"] | {"vocab": {"[UNK]": 1, "a": 4}}}),
        "knows . tokens, the model 92, .* reads none",
    ),
    "layer-missing": (without_weights("layer.1"), r"16 of its weights .* encoder\.layer\.1\.attention"),
    "embeddings-missing": (without_weights("word_embeddings"), "1 of its weights are not in the files"),
    "pointer-weights": (written(_WEIGHTS, POINTER), r"model\.safetensors is a Git LFS pointer.*git lfs pull"),
    "pointer-tokenizer": (written(_WORDS, POINTER), r"tokenizer\.json is a Git LFS pointer"),
    "pointer-config": (written("config.json", POINTER), r"config\.json is a Git LFS pointer"),
    "half-weights": (halved(_WEIGHTS), r"model\.safetensors is cut short"),
    "half-header": (
        lambda folder: written(_WEIGHTS, (folder / _WEIGHTS).read_bytes()[:99])(folder),
        "cut short",
    ),
    "empty-weights": (written(_WEIGHTS, b""), r"model\.safetensors is cut short"),
    "half-tokenizer": (halved(_WORDS), r"tokenizer\.json is cut short or no JSON"),
    "half-config": (written("config.json", b'{"model_type": "be'), r"config\.json is cut short or no JSON"),
    "half-modules": (written("modules.json", b'[{"idx": 0'), r"modules\.json is cut short or no JSON"),
    "list-config": (written("config.json", b"[]"), "is no configuration of a model"),
    "unknown-kind": (
        edited("config.json", lambda found: found | {"model_type": "zzz"}),
        "code .* is never run",
    ),
    "other-sizes": (
        edited("config.json", lambda found: found | {"intermediate_size": 8}),
        "cannot be loaded",
    ),
    "awq": (quantised("awq"), r"its weights are quantised \(awq\).*16 or 32 bits"),
    "bitsandbytes": (quantised("bitsandbytes"), r"quantised \(bitsandbytes\)"),
    "unknown-quant": (quantised("zzz"), r"quantised \(zzz\)"),
    "not-a-number": (edited(_WEIGHTS, lambda found: found | {_LAYER: found[_LAYER] * _NAN}), "length nan"),
    "zeros": (edited(_WEIGHTS, lambda found: {n: t * 0 for n, t in found.items()}), "length 0.0000"),
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused(folder, kind):
    damage, message = DAMAGED[kind]
    damage(folder)
    with pytest.raises(InvalidInputError, match=message):
        HuggingFaceEncoder(folder, device="cpu")


def test_pickled_weights_are_never_loaded(folder):
    (folder / _WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match="pickled weights are never loaded"):
        HuggingFaceEncoder(folder)


def test_a_pooler_that_nobody_asks_for_may_be_missing(folder, whole):
    without_weights("pooler")(folder)
    one, other = (HuggingFaceEncoder(path).encode_queries(["a tide"]) for path in (folder, whole))
    assert np.array_equal(one, other)


def test_two_loads_agree(whole):
    one, other = HuggingFaceEncoder(whole), HuggingFaceEncoder(whole)
    assert one.fingerprint == other.fingerprint
    assert np.array_equal(one.encode_queries(["a tide"]), other.encode_queries(["a tide"]))


def test_a_tokenizer_of_another_script_is_one(folder):
    """Half of the Latin letters are words of Russian here."""
    swap = dict(zip("abcdefghijklmnopqrstuvwxyz", "абвгдежзийклмнопрстуфхцчшщ", strict=True))

    def russian(found):
        vocab = {
            "".join(swap.get(letter, letter) for letter in piece)
            if not piece.startswith("[")
            else piece: place
            for piece, place in found["model"]["vocab"].items()
        }
        return found | {"model": found["model"] | {"vocab": vocab}}

    edited(_WORDS, russian)(folder)
    pooled = HuggingFaceEncoder(folder).encode_queries(["прилив", "лодка"])
    assert pooled[0] @ pooled[1] < 0.999


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta", 99])
def test_a_device_that_is_not_there(whole, device):
    with pytest.raises(InvalidInputError, match=r"device .* cannot be used here.*Leave it out"):
        HuggingFaceEncoder(whole, device=device)
    assert choose_device().type in ("cpu", "cuda")


@pytest.mark.parametrize("side", ["document_prefix", "query_prefix"])
def test_a_prefix_longer_than_the_encoder_reads(whole, side):
    with pytest.raises(
        InvalidInputError, match=r"a prefix of 80 tokens leaves -18 of the 64 that the encoder reads"
    ):
        HuggingFaceEncoder(whole, **{side: "a " * 80})


def test_an_incomplete_cache_is_completed_by_the_hub(whole, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    asked = []

    def snapshot_download(name, *, allow_patterns, local_files_only=False):
        asked.append(local_files_only)
        return str(tmp_path if local_files_only else whole)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve.resolve_model("is/incomplete") == whole
    assert asked == [True, False]
