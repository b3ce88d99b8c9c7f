r"""Writes what train_reader.py trains on: token ids of texts, blanks and questions, in one file.

    python benchmarks/gpu/prepare_reader.py --data DIR --out reader-texts.npz

DIR as benchmarks/prepare_data.py makes it. Questions are those of SQuAD; the others give text alone. Also
writes the prompt's fixed parts as token ids, so that training needs no tokenizer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from beir import read_corpus, read_queries

from mllm_plugin.llm.models import resolve_llm
from mllm_plugin.training.reader.prompts import prompt_parts
from mllm_plugin.training.reader.texts import Asked, prepare

SHARES = {"squad": 1.0, "medquad": 1.0, "cuad": 1.0, "scifact": 1.0, "techdocs": 0.4}


def documents(folder: Path, share: float, limit: int | None, *, held_out: bool) -> Iterator[tuple[str, str]]:
    """Ids and texts, whole documents (pieces with one group are joined)."""
    rng, joined, last, count = np.random.default_rng(0), [], None, 0
    for one in read_corpus(folder):
        if ((one.metadata or {}).get("split") == "dev") != held_out:
            continue
        count += 1
        if limit is not None and count > limit:
            break
        group = (one.metadata or {}).get("group", one.id)
        if group != last and joined:
            if rng.random() < share:
                yield str(last), "\n\n".join(joined)
            joined = []
        joined.append(one.text)
        last = group
    if joined:
        yield str(last), "\n\n".join(joined)


def asked(folder: Path) -> list[Asked]:
    """Questions with answer strings."""
    return [
        Asked(row["text"], tuple(row["answers"]), row["doc"])
        for split in ("train", "dev")
        for row in read_queries(folder, split).values()
    ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--limit", type=int, help="documents per set, for a rehearsal")
    options = arguments.parse_args()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_llm())
    questions, limit = asked(options.data / "squad"), options.limit
    sets = [
        (documents(options.data / name, share, limit, held_out=False), questions if name == "squad" else [])
        for name, share in SHARES.items()
    ]
    measured = documents(options.data / "squad", 1.0, limit, held_out=True)
    texts = prepare(sets, tokenizer, held_out=(measured, questions))
    texts.save(options.out)
    options.out.with_suffix(".json").write_text(json.dumps(prompt_parts(tokenizer)))
    lengths = np.diff(texts.chunks.ends, prepend=0)
    print(
        f"{len(texts.chunks)} chunks of {lengths.mean():.0f} tokens, "
        f"{lengths.sum() / 1e6:.1f} M tokens; {len(texts.blanks)} blanks; {len(texts.asked)} questions, "
        f"{int(texts.held_out.sum())} held out; {options.out.stat().st_size / 2**20:.1f} MiB"
    )


if __name__ == "__main__":
    main()
