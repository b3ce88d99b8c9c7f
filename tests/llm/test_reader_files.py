"""A reader's two files: whole or not at all, and refused by the name of what is damaged."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import load_file, save_file

from mllm_plugin import DiskFullError, InvalidInputError, MLLMError
from mllm_plugin.llm import MemoryReader, load_llm
from mllm_plugin.memory_llm.reader_choice import choose_reader
from tests.helpers.damage_tools import damages
from tests.helpers.tiny import write_tiny
from tests.helpers.tiny_memory_llm import random_reader


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return load_llm(write_tiny(tmp_path_factory.mktemp("tiny")), device="cpu")


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("reader")
    random_reader(small).save(folder)
    return folder, MemoryReader.load(folder).tensors


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages)
def test_a_damaged_reader_is_refused_or_is_the_same(saved, small, tmp_path_factory, damage):
    folder, expected = saved
    copy = tmp_path_factory.mktemp("damaged") / "copy"
    shutil.copytree(folder, copy)
    damage(copy, "reader")
    try:
        reader = MemoryReader.load(copy)
        reader.check(small)  # as whoever uses it does
        found = reader.tensors
    except MLLMError:
        return  # told as an error of this package, whatever it is
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


LAYER = "model.layers.0.mlp.up_proj"
CHANGES = {
    "half of a change": (
        lambda t: t.pop(f"writer.{LAYER}.lora_B.weight"),
        rf"tensor 'writer.{LAYER}.lora_B.weight' is missing",
    ),
    "a change of one alone": (
        lambda t: [t.pop(name) for name in list(t) if name.startswith(f"reader.{LAYER}.")],
        rf"tensor 'reader.{LAYER}.lora_A.weight' is missing",
    ),
    "scale": (
        lambda t: t.update({f"reader.{LAYER}.lora_A.weight.scale": torch.ones(1)}),
        rf"'reader.{LAYER}.lora_A.weight' of whole numbers: tensor '.scale' has shape \[1\]",
    ),
    "rank": (
        lambda t: t.update({f"reader.{LAYER}.lora_A.weight": torch.zeros(9, 32, dtype=torch.float16)}),
        "has shape|is unknown",
    ),
    "infinite": (
        lambda t: t["space.idf"].fill_(torch.inf),
        r"tensor 'space.idf' holds \d+ numbers that are not finite",
    ),
    "integers": (
        lambda t: t.update({"space.idf": t["space.idf"].int()}),
        "tensor 'space.idf' holds int32, expected floating-point",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_what_is_damaged_is_named(saved, tmp_path, change, message):
    shutil.copytree(saved[0], tmp_path / "copy")
    path = tmp_path / "copy" / "reader.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(InvalidInputError, match=message):
        MemoryReader.load(tmp_path / "copy")


def test_a_turned_bit_is_found_by_the_checksum(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "copy")
    path = tmp_path / "copy" / "reader.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match="do not have the checksum"):
        MemoryReader.load(tmp_path / "copy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": 3}, "ratio must be one of"),
        ({"hidden": 64}, r"'space.kinds.weight' has shape \[6, 32\], expected \[6, 64\]"),
        ({"ratios": [2, 4]}, r"'space.kinds.weight' has shape \[6, 32\], expected \[4, 32\]"),
        ({"format_version": 2}, "does not know its format version, 2; upgrade"),
        ({"kind": "adapter"}, "its JSON does not fit"),
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit_the_tensors(saved, tmp_path, change, message):
    shutil.copytree(saved[0], tmp_path / "copy")
    path = tmp_path / "copy" / "reader.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidInputError, match=message):
        MemoryReader.load(tmp_path / "copy")


def test_readers_of_earlier_releases_have_no_checksum(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "copy")
    path = tmp_path / "copy" / "reader.safetensors"
    save_file(load_file(path), path)
    found = MemoryReader.load(tmp_path / "copy").tensors
    assert all(torch.equal(found[name], value) for name, value in saved[1].items())


def test_a_full_disk_leaves_the_reader_that_was_there(small, tmp_path, monkeypatch):
    random_reader(small).save(tmp_path)
    before = MemoryReader.load(tmp_path).fingerprint

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError):
        random_reader(small, seed=1).save(tmp_path)
    monkeypatch.undo()
    assert MemoryReader.load(tmp_path).fingerprint == before


def test_numbers_that_are_none_make_no_reader(saved):
    tensors = saved[1] | {"space.map.weight": torch.full((32, 32), torch.nan)}
    with pytest.raises(InvalidInputError, match=r"tensor 'space.map.weight' holds 1024 numbers that are not"):
        MemoryReader(MemoryReader.load(saved[0]).config, tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auto": {"mode": "nonsense"}}, "setting 'mode' of the MemoryLLM"),
        ({"auto": {}}, "auto must name a mode"),
        ({"reading": {"expand": "many"}}, "setting 'expand' of the MemoryLLM"),
    ],
    ids=str,
)
def test_settings_that_are_none_are_refused_by_who_chooses_it(saved, small, tmp_path, change, message):
    shutil.copytree(saved[0], tmp_path / "copy")
    path = tmp_path / "copy" / "reader.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidInputError, match=message):
        choose_reader(tmp_path / "copy", small)


def test_a_reader_that_does_not_fit_the_model_is_refused_when_it_is_chosen(saved, small):
    reader = MemoryReader.load(saved[0])
    short = MemoryReader(reader.config, reader.tensors | {"space.idf": torch.ones(9)})
    with pytest.raises(InvalidInputError, match=r"tensor 'space.idf' has shape \[9\], expected \[258\]"):
        choose_reader(short, small)
    fewer = {name: value for name, value in reader.tensors.items() if f".{LAYER}." not in name}
    with pytest.raises(InvalidInputError, match=rf"tensor 'reader.{LAYER}.lora_A.weight' is missing"):
        choose_reader(MemoryReader(reader.config, fewer), small)
