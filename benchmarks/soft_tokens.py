r"""What a language model makes of soft tokens: does it read sums of words, and do the words survive?

    python benchmarks/soft_tokens.py --data DIR

First, the untouched model repeats texts of SQuAD from soft tokens that are means of one, two or four of its
own word embeddings, the text's and another text's: what it cannot repeat, it cannot read without learning to.
Second, the shipped projector: of the rare words behind a window, the share among the 20 words of the model
that lie nearest to its soft token, for windows of 16 states and of 16, 8 and 4 words.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from beir import read_corpus, read_queries
from common import machine, parser, print_table
from torch import Tensor

from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from mllm_plugin.encoders.resolve import DEFAULT_ENCODER
from mllm_plugin.llm import LoadedLLM, PromptLayout, load_llm
from mllm_plugin.llm.adapter import shipped_adapter
from mllm_plugin.llm.prompt import assemble
from mllm_plugin.training.llm.start import spoken

_TOKENS = 64
_RARE = 30  # times in all texts, at most
_NEAREST = 20


@torch.inference_mode()
def repeated(llm: LoadedLLM, texts: Sequence[str], size: int, shift: int) -> float:
    """Loss per token of repeating texts from means of `size` embeddings of the text `shift` places on."""
    layout = PromptLayout(llm.tokenizer, system="")
    tokens = [llm.tokenizer(text, add_special_tokens=False)["input_ids"][:_TOKENS] for text in texts]
    losses = []
    for place, answer in enumerate(tokens):
        shown = torch.tensor(tokens[(place + shift) % len(tokens)])
        means = torch.stack([part.mean(dim=0) for part in llm.embeddings(shown).split(size)])
        prompt = layout.build("Repeat the text above, word for word.", memory_tokens=len(means))
        batch = assemble(llm, [prompt], means, continuations=[answer])
        losses.append(
            float(
                llm.model(
                    inputs_embeds=batch.inputs_embeds,
                    attention_mask=batch.attention_mask,
                    labels=batch.labels,
                ).loss
            )
        )
    return float(np.mean(losses))


@torch.inference_mode()
def surviving(llm: LoadedLLM, encoder: HuggingFaceEncoder, texts: Sequence[str], counts: Tensor) -> float:
    """Share of a window's rare words among the words nearest to its soft token."""
    adapter = shipped_adapter(llm, HuggingFaceEncoder(DEFAULT_ENCODER).fingerprint)
    assert adapter is not None
    windows = encoder.encode_documents(texts)[1]
    found = spoken(texts, windows, None, llm, size=encoder.window_tokens, offsets=encoder.token_offsets)
    known = torch.nonzero(counts)[:, 0]
    table = llm.embeddings.weight[known].float()
    center = table.mean(dim=0)
    soft = adapter.soft_tokens(found.vectors, found.levels) - center
    nearest = known[(soft @ (table - center).T).topk(_NEAREST).indices]
    shares = []
    for words, near in zip(found.words, nearest, strict=True):
        rare = {word for word in words.tolist() if counts[word] <= _RARE}
        if rare:
            shares.append(len(rare & set(near.tolist())) / len(rare))
    return float(np.mean(shares))


def main() -> None:
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("--texts", type=int, default=40, help="to repeat")
    arguments.add_argument("--chunks", type=int, default=300, help="whose words are looked for")
    options = arguments.parse_args()
    llm, folder = load_llm(), options.data / "squad"
    print(f"On {machine()}; SmolLM2-135M-Instruct and all-MiniLM-L6-v2.\n")
    texts = {one.id: one.text for one in read_corpus(folder)}
    asked = sorted({row["doc"] for row in read_queries(folder, "dev").values()})
    shown = [texts[one] for one in islice(asked, options.texts)]
    print(f"Loss per token of repeating {len(shown)} texts, {_TOKENS} tokens each, the model untouched\n")
    rows = [
        [f"{size} words", f"{repeated(llm, shown, size, 0):.2f}", f"{repeated(llm, shown, size, 1):.2f}"]
        for size in (1, 2, 4)
    ]
    print_table(["a soft token is the mean of", "of the text", "of another text"], rows)
    ids = [llm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts.values()]
    counts = torch.from_numpy(np.bincount(np.concatenate(ids), minlength=len(llm.embeddings.weight)))
    parts = [" ".join(texts[one].split()[:80]) for one in islice(asked, options.chunks)]
    print(f"\nRare words of {len(parts)} texts among the {_NEAREST} nearest to their soft token\n")
    kinds = {"16 states": (16, -1), "16 words": (16, 0), "8 words": (8, 0), "4 words": (4, 0)}
    rows = []
    for name, (size, layer) in kinds.items():
        encoder = HuggingFaceEncoder(DEFAULT_ENCODER, window_tokens=size, window_layer=layer)
        rows.append([name, f"{100 * surviving(llm, encoder, parts, counts):.0f} %"])
    print_table(["a window of", "found"], rows)


if __name__ == "__main__":
    main()
