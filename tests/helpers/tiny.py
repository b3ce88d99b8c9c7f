"""A tiny random language model whose tokens are bytes, in Hugging Face format on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

START, END = "<|start|>", "<|end|>"
TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>' }}{% endfor %}"
    "{{ '<|start|>assistant\n' }}"
)


def byte_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Every byte is a token, so that characters and stop texts lie across tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={one: place for place, one in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast


def write_tiny(
    folder: Path,
    *,
    context: int = 1024,
    template: str | None = TEMPLATE,
    seed: int = 0,
    hidden: int = 32,
    kind: str = "llama",
    **settings: Any,
) -> Path:
    """Writes model and tokenizer."""
    tokenizer = byte_tokenizer(template)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.3,
        "tie_word_embeddings": True,
    }
    if kind == "gpt2":
        del sizes["intermediate_size"], sizes["num_key_value_heads"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **settings}))
        for name, value in model.named_parameters():
            if name.endswith("bias"):  # they are zero to begin with
                torch.nn.init.normal_(value, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
