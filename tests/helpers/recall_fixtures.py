"""A library of several levels, for what is recalled from it."""

from __future__ import annotations

import pytest

from mllm_plugin import MemoryIndex
from tests.helpers.recall_tools import CONFIG, many_documents, random_weights
from tests.helpers.toy import ToyEncoder


@pytest.fixture(scope="module", params=["identity", "trained"])
def tall_library(request, tmp_path_factory):
    hierarchy = "identity"
    if request.param == "trained":
        hierarchy = tmp_path_factory.mktemp("weights")
        random_weights().save(hierarchy, encoder=ToyEncoder().fingerprint)
    folder = tmp_path_factory.mktemp("recall")
    with MemoryIndex.open(folder, encoder=ToyEncoder(), config=CONFIG, hierarchy=hierarchy) as memory:
        memory.add(many_documents())
        yield memory
