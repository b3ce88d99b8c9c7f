r"""F1 of the answers that benchmarks/gpu/train_reader.py wrote for held-out SQuAD questions.

    python benchmarks/gpu/score_reader.py --answers answers.json --texts reader-texts.npz --data DIR

Each question is read with the one chunk that answers it: as memory tokens at several ratios, as text, not at
all, and with another question's memory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from beir import read_queries
from common import interval, print_table

from mllm_plugin.llm.models import resolve_llm
from mllm_plugin.training.reader.answers import exact_match, f1
from mllm_plugin.training.reader.texts import ReaderTexts

REFUSAL = "unknown"


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--answers", type=Path, required=True)
    arguments.add_argument("--texts", type=Path, required=True)
    arguments.add_argument("--data", type=Path, required=True)
    options = arguments.parse_args()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_llm())
    texts, said = ReaderTexts.load(options.texts), json.loads(options.answers.read_text())
    accepted = {row["text"]: row["answers"] for row in read_queries(options.data / "squad", "dev").values()}
    asked = [tokenizer.decode(texts.questions[number]) for number in said.pop("questions")]
    whole, table = None, []
    for name, ids in sorted(said.items(), key=lambda item: item[0] != "text 4"):
        written = [tokenizer.decode(row).strip() for row in ids]
        scores = 100 * np.array([f1(one, accepted[q]) for one, q in zip(written, asked, strict=True)])
        exact = 100 * np.mean([exact_match(one, accepted[q]) for one, q in zip(written, asked, strict=True)])
        whole = scores.mean() if whole is None else whole
        low, high = interval(scores)
        refused = 100 * np.mean([one.lower() == REFUSAL for one in written])
        title = name.replace("text 4", "text").replace("none 4", "nothing").replace(
            "own", "memory"
        ) + "x" * name[0:3].count("own")
        table.append(
            [
                title,
                f"{scores.mean():.1f} [{low:.1f}, {high:.1f}]",
                f"{exact:.1f}",
                f"{100 * scores.mean() / whole:.0f} %",
                f"{refused:.1f} %",
            ]
        )
    print_table([f"{len(asked)} questions", "F1", "exact match", "of the text's F1", "refused"], table)


if __name__ == "__main__":
    main()
