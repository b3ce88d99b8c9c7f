"""Adapters: what they add to a model and take away again, and what they are on disk."""

from __future__ import annotations

import json

import pytest
import torch
from llm_tools import make_adapter
from tiny import write_tiny

from mllm_plugin import InvalidInputError, NotFoundError
from mllm_plugin.hierarchy import document_mark
from mllm_plugin.llm import Adapter, MemoryProjector, assemble, load_llm, shipped_adapter
from mllm_plugin.llm.adapter import CONFIG_NAME, TENSORS_NAME


def disturb(adapter: Adapter, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for one in adapter.parameters():
        one.data += 0.1 * torch.randn(one.shape, generator=generator)


@pytest.fixture
def logits(tiny, layout):
    """The model's output for a prompt, whatever is on it."""
    batch = assemble(tiny, [layout.build("Who?")])

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return tiny.model(inputs_embeds=batch.inputs_embeds).logits.clone()

    return run


def test_soft_tokens_start_like_the_models_own(tiny):
    own = tiny.embeddings.weight.detach()
    vectors = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    for per in (1, 3):
        adapter = Adapter.create(tiny, encoder="e", dim=16, tokens_per_embedding=per)
        with torch.no_grad():
            soft = adapter.soft_tokens(torch.nn.functional.normalize(vectors, dim=-1), torch.zeros(200))
        assert soft.shape == (200 * per, tiny.hidden)
        assert float(soft.norm(dim=-1).mean()) == pytest.approx(float(own.norm(dim=-1).mean()), rel=0.15)


def test_levels_are_told_apart_up_to_the_highest():
    projector = MemoryProjector(4, 8, width=8, levels=3)
    soft = projector(torch.ones(4, 4), torch.tensor([0, 1, 2, 9]))
    assert not torch.allclose(soft[0], soft[1])
    assert torch.equal(soft[2], soft[3])


def test_the_same_seed_gives_the_same_start(tiny, stocked):
    one, two, other = (make_adapter(tiny, stocked, seed=seed) for seed in (1, 1, 2))
    vectors = torch.randn(2, 16)
    assert torch.equal(one.soft_tokens(vectors, [0, 1]), two.soft_tokens(vectors, [0, 1]))
    assert not torch.equal(one.soft_tokens(vectors, [0, 1]), other.soft_tokens(vectors, [0, 1]))


def test_changes_start_at_nothing_and_can_be_switched_off(tiny, stocked, logits):
    before, adapter = logits(), make_adapter(tiny, stocked)
    with adapter.enabled(tiny.model):
        assert torch.equal(logits(), before)
        disturb(adapter)
        changed = logits()
        assert not torch.allclose(changed, before)
        with adapter.disabled(tiny.model):
            assert torch.equal(logits(), before)
        assert torch.equal(logits(), changed)
    assert torch.equal(logits(), before)
    adapter.detach(tiny.model)
    assert torch.equal(logits(), before)
    assert not hasattr(tiny.model, "peft_config")
    assert not any("lora" in name for name, _ in tiny.model.named_modules())
    with adapter.enabled(tiny.model):
        assert torch.equal(logits(), changed)
    adapter.detach(tiny.model)


def test_two_adapters_on_one_model(tiny, stocked, logits):
    one, two = make_adapter(tiny, stocked), make_adapter(tiny, stocked, lora_rank=3)
    found = []
    for seed, adapter in enumerate((one, two)):
        with adapter.enabled(tiny.model):
            disturb(adapter, seed)
            found.append(logits())
    for adapter, expected in ((one, found[0]), (two, found[1]), (one, found[0])):
        with adapter.enabled(tiny.model):
            assert torch.equal(logits(), expected)
    one.detach(tiny.model)
    with two.enabled(tiny.model):
        assert torch.equal(logits(), found[1])
    two.detach(tiny.model)


def test_added_into_the_weights_is_the_same(tiny, stocked, logits, tmp_path):
    before, adapter = logits(), make_adapter(tiny, stocked)
    with adapter.applied(tiny.model):
        assert torch.equal(logits(), before)
    with adapter.enabled(tiny.model):
        disturb(adapter)
        changed = logits()
    adapter.detach(tiny.model)
    with adapter.applied(tiny.model):
        assert torch.allclose(logits(), changed, atol=1e-4)
        assert not hasattr(tiny.model, "peft_config")
    assert torch.equal(logits(), before)
    with pytest.raises(RuntimeError), adapter.applied(tiny.model):
        raise RuntimeError
    assert torch.equal(logits(), before)
    other = make_adapter(tiny, stocked)
    with other.enabled(tiny.model):
        disturb(other, 1)
        with adapter.applied(tiny.model):  # beside one that is attached
            assert torch.allclose(logits(), changed, atol=1e-4)
    other.detach(tiny.model)
    assert torch.equal(logits(), before)


def test_only_the_adapter_learns(tiny, stocked):
    adapter = make_adapter(tiny, stocked)
    adapter.attach(tiny.model)
    own = {id(one) for one in adapter.parameters()}
    learning = {id(one) for one in tiny.model.parameters() if one.requires_grad}
    assert learning
    assert own == learning | {id(one) for one in adapter.projector.parameters()}
    adapter.detach(tiny.model)


def test_without_lora_the_model_is_never_touched(tiny, stocked):
    adapter = make_adapter(tiny, stocked, lora_rank=0)
    with adapter.enabled(tiny.model):
        assert not hasattr(tiny.model, "peft_config")


def test_reloaded_equals_before(tiny, stocked, logits, tmp_path):
    adapter, vectors = make_adapter(tiny, stocked), torch.randn(3, 16)
    adapter.attach(tiny.model)
    disturb(adapter)
    adapter.save(tmp_path / "first", about={"data": "none"})
    adapter.detach(tiny.model)
    first, again = Adapter.load(tmp_path / "first"), tmp_path / "again"
    first.save(again)  # never attached
    assert (again / TENSORS_NAME).read_bytes() == (tmp_path / "first" / TENSORS_NAME).read_bytes()
    second = Adapter.load(again)
    assert first.config == second.config
    assert second.config.about == {"data": "none"}
    soft = [one.soft_tokens(vectors, [0, 1, 2]) for one in (adapter, first, second)]
    assert torch.equal(soft[1], soft[2])
    assert torch.allclose(soft[0], soft[1], atol=1e-2)
    found = []
    for one in (adapter, second):
        with one.enabled(tiny.model):
            found.append(logits())
        one.detach(tiny.model)
    assert torch.allclose(found[0], found[1], atol=5e-2)


def test_seen_documents(tiny, stocked, tmp_path):
    make_adapter(tiny, stocked).save(tmp_path, documents=(document_mark(("a",), "secret"),))
    adapter = Adapter.load(tmp_path)
    assert adapter.has_seen("secret", ("a",))
    assert not adapter.has_seen("secret")
    assert "secret" not in (tmp_path / CONFIG_NAME).read_text()


def test_nothing_there(tmp_path):
    with pytest.raises(NotFoundError, match=r"adapter\.json is missing; `mllm train-llm`"):
        Adapter.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"width": 17}, {"format": 3}, {"dim": "wide"}, {"tokens_per_embedding": 0}, {"format_version": 2}],
    ids=["width", "unknown", "type", "zero", "newer"],
)
def test_files_that_do_not_belong_together(tiny, stocked, tmp_path, change):
    make_adapter(tiny, stocked).save(tmp_path)
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config | change))
    with pytest.raises(InvalidInputError, match="cannot be read"):
        Adapter.load(tmp_path)


def test_tensors_that_are_none(tiny, stocked, tmp_path):
    make_adapter(tiny, stocked).save(tmp_path)
    (tmp_path / TENSORS_NAME).write_bytes(b"no safetensors")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        Adapter.load(tmp_path)


def test_lora_of_another_model(tiny, stocked, tmp_path):
    adapter = make_adapter(tiny, stocked)
    adapter.attach(tiny.model)
    adapter.save(tmp_path, lora_targets=("q_proj",))
    adapter.detach(tiny.model)
    other = Adapter.load(tmp_path)
    with pytest.raises(InvalidInputError, match="do not fit the model"):
        other.attach(tiny.model)
    assert not any("lora" in name for name, _ in tiny.model.named_modules())


def test_lora_of_a_wider_model(tiny, stocked, tmp_path):
    adapter = make_adapter(tiny, stocked)
    adapter.attach(tiny.model)
    adapter.save(tmp_path)
    adapter.detach(tiny.model)
    other = load_llm(write_tiny(tmp_path / "wide", hidden=64), device="cpu")
    for put_on in (
        Adapter.load(tmp_path).attach,
        lambda model: Adapter.load(tmp_path).applied(model).__enter__(),
    ):
        with pytest.raises(InvalidInputError, match="do not fit the model"):
            put_on(other.model)


def test_nothing_is_shipped_for_the_tiny_model(tiny):
    assert shipped_adapter(tiny, "toy:16:1") is None
