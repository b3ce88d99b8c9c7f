"""Tokenizers of every family, trained on a few lines, with added tokens of every kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.helpers.tiny import TEMPLATE

SPECIAL = ["<|start|>", "<|end|>", "<unk>", "<s>", "</s>", "[SEP]", "§", "|"]
PLAIN = ["<think>", "</think>", "<tool_call>", "<|end|><|start|>", "end|", "STOP", "\n\n", "  ", "{", "a§b"]
LINES = [
    "The keeper of the lighthouse writes down the height of the tide in the log.",
    "def area(radius): return 3.14159 * radius ** 2  # a circle, of course; say end or start, think, call",
    "user assistant system Question Answer INST SEP tool mask stop Be brief Who cat memory",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 .,:;!?'\"()[]<>/|_-+=*#\n",
    "<|start|>user\nWho?<|end|> </s> <s> [SEP] <think> § a§b STOP {x} | ||",
]


def _byte_bpe(normalizer: normalizers.Normalizer | None = None) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer, trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )


def _word_piece() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)


def _unigram() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )


def _llama() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"), normalizers.NFKC()]
    )
    return tokenizer, trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>"], show_progress=False
    )


def _words() -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer, trainers.WordLevelTrainer(special_tokens=["<unk>", "</s>"], show_progress=False)


FAMILIES: dict[str, Callable[[], tuple[Tokenizer, trainers.Trainer]]] = {
    "byte-bpe": _byte_bpe,
    "byte-bpe-nfkc": lambda: _byte_bpe(normalizers.NFKC()),
    "wordpiece": _word_piece,
    "unigram": _unigram,
    "llama": _llama,
    "words": _words,
}


@cache
def tokenizer_of(family: str, *, normalized: bool = False) -> PreTrainedTokenizerFast:
    """A trained tokenizer with the added tokens, some of which its vocabulary spells too."""
    tokenizer, trainer = FAMILIES[family]()
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.add_special_tokens([AddedToken(one, normalized=normalized) for one in SPECIAL])
    tokenizer.add_tokens([AddedToken(one, normalized=normalized) for one in PLAIN])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, normalized=normalized)])
    tokenizer.add_tokens([AddedToken("halt", single_word=True, normalized=normalized)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|start|>",
        eos_token="<|end|>",
        pad_token="<|end|>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast
