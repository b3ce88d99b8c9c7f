"""Every setting says beside itself what it is for, and the text is there at run time."""

from __future__ import annotations

import pytest

from mllm_plugin import ChunkingConfig, LeafConfig, LexicalConfig, MemoryConfig, SearchConfig, TreeConfig
from mllm_plugin.hierarchy import WeightsConfig
from mllm_plugin.llm import ReaderConfig
from mllm_plugin.llm.decoding import Decoding
from mllm_plugin.memory_llm import MemoryLLMConfig

CONFIGS = [
    ChunkingConfig,
    Decoding,
    LeafConfig,
    LexicalConfig,
    MemoryConfig,
    MemoryLLMConfig,
    ReaderConfig,
    SearchConfig,
    TreeConfig,
    WeightsConfig,
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_field_has_its_text_and_the_class_repeats_none(config):
    silent = [name for name, field in config.model_fields.items() if not field.description]
    assert not silent
    assert "Args:" not in config.__doc__
    assert all(field.description.strip().endswith(".") for field in config.model_fields.values())


def test_how_it_writes_is_told_once():
    assert issubclass(MemoryLLMConfig, Decoding)
    config = MemoryLLMConfig(temperature=0.5, stop=("x",))
    assert config.decoding == Decoding(temperature=0.5, stop=("x",))
