"""Two steps with the real encoder and the real language model."""

from __future__ import annotations

import pytest

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.errors import ModelNotFoundError
from mllm_plugin.llm.models import DEFAULT_LLM, load_llm
from mllm_plugin.training.llm.config import LLMTrainingConfig
from mllm_plugin.training.llm.run import train_llm

FACTS = [
    ("The library of Kesh was founded in 1612 by Ada Brun.", "Who founded the library of Kesh?", "Ada Brun"),
    ("The river Orlo rises on Mount Tamsin and is 90 km long.", "Where does the Orlo rise?", "Mount Tamsin"),
    (
        "Pelmo bread is baked with chestnut flour and honey.",
        "What flour is in Pelmo bread?",
        "chestnut flour",
    ),
]


def test_the_default_pair(tmp_path) -> None:
    try:
        llm = load_llm(DEFAULT_LLM, device="cpu")
    except ModelNotFoundError as error:
        pytest.skip(str(error))
    with MemoryIndex.open(tmp_path / "memory") as memory:
        memory.add(
            Document(id=f"d{place}", text=FACTS[place % 3][0] + f" Note {place}.") for place in range(30)
        )
        rows = {f"q{place}": FACTS[place % 3] for place in range(30)}
        report = train_llm(
            memory,
            tmp_path / "adapter",
            queries={
                name: {"text": question, "answers": [answer]} for name, (_, question, answer) in rows.items()
            },
            qrels={f"q{place}": {f"d{place}": 1} for place in range(30)},
            llm=llm,
            config=LLMTrainingConfig(
                answer_tokens=8,
                warmup=0,
                steps=2,
                groups=1,
                evaluate_every=2,
                start_steps=2,
                evaluate_questions=1,
                lora_rate=1e-3,
            ),
            progress=False,
        )
    assert report.best_step == 2
    assert report.losses["text"][1] < report.losses["text"][0]
