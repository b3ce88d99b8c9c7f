"""Fixtures of the robustness tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mllm_plugin import Document, MemoryIndex
from tests.helpers.robustness_tools import KEPT, LONG, SMALL_GROUPS, end_started, some_documents
from tests.helpers.toy import ToyEncoder


@pytest.fixture(autouse=True)
def no_process_survives() -> Iterator[None]:
    yield
    end_started()


@pytest.fixture
def stocked(memory) -> MemoryIndex:
    """A memory with something to lose."""
    memory.add(KEPT)
    return memory


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[MemoryIndex]:
    """A stocked memory for tests whose calls must all be refused."""
    with MemoryIndex.open(tmp_path_factory.mktemp("shared") / "memory", encoder=ToyEncoder()) as memory:
        memory.add(KEPT)
        yield memory


@pytest.fixture
def source(tmp_path):
    """Masks, labels, namespaces, uncut documents, vectors from the caller."""
    with MemoryIndex.open(tmp_path / "source", encoder=ToyEncoder(), config=SMALL_GROUPS) as memory:
        memory.add([*KEPT, *some_documents(60), LONG])
        memory.add([Document(LONG.text, id="whole", labels=("x", "y"))], split=False)
        memory.add([Document("the vector knows best", id="vector")], embeddings=[np.arange(16.0)])
        memory.add([Document("the password of anna", id="note"), *KEPT], namespace=("users", "anna"))
        memory.add([Document("the password of bob", id="note")], namespace=("users", "bob"))
        memory.mask(["d3", "whole"], label="draft")
        memory.mask(["d3"])
        memory.mask(["note"], namespace=("users", "bob"))
        yield memory


@contextmanager
def _mounted(target: Path, *commands: list[str]) -> Iterator[None]:
    mounted = 0
    try:
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"cannot mount here: {done.stderr.strip()}")
            mounted = 1
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(target)], check=True)


@pytest.fixture
def unwritable():
    """Makes a folder unwritable, for root too."""

    @contextmanager
    def make(folder: Path) -> Iterator[None]:
        if os.geteuid() != 0:
            folder.chmod(0o555)
            try:
                yield
            finally:
                folder.chmod(0o755)
            return
        if shutil.which("mount") is None:
            pytest.skip("root can write everywhere and there is no mount command")
        bind = ["mount", "--bind", str(folder), str(folder)]
        with _mounted(folder, bind, ["mount", "-o", "remount,ro,bind", str(folder)]):
            yield

    return make


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    with _mounted(disk, ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]):
        yield disk
