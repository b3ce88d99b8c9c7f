"""Words of all scripts are found, and a memory keeps the rule by which its words were told."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from mllm_plugin import Document, MemoryIndex, reembed
from mllm_plugin.encoders import VectorsOnly
from mllm_plugin.text.lexical import FIRST_RULE, WORD_RULE
from tests.helpers.toy import ToyEncoder

# Written with release 0.1.0 (commit f9a5a66) by ToyEncoder(4): these documents, then `backup`.
_OLD = Path(__file__).with_name("memory_of_word_rule_1.db.gz")
_OLD_TEXTS = {
    "hindi": "हिन्दी में एक छोटा वाक्य",
    "soft": "Donau\u00addampfschiff",
    "plain": "a plain English sentence",
    "hebrew": "כָּתַב סֵפֶר",
    "thai": "ภาษาไทย",
}
_SYLLABLES = {
    "devanagari": "कि मी रु ते सौ दृ वं न्या प्री ह्ला",
    "bengali": "কি মী রু তে সৌ দৃ বং ন্যা প্রী হ্লা",
    "tamil": "கி மீ ரு தே சௌ பொ வ் ன்யா ப்ரீ ழை",
    "telugu": "కి మీ రు తే సౌ దృ వం న్యా ప్రీ హ్లా",
    "arabic": "كِ مَا رُو تَ سْ دُ وٌ نِي بّ هَا",
    "hebrew": "כִּ מָ רֻ תֵּ סוֹ דְ וָ נִי פּ הַ",
    "thai": "กิ มี รุ เต เสา ดึ วั นยา ปรี ไหล",
    "cyrillic": "ки ми ру те со дю ва ня при хла",
}


@pytest.fixture
def old_memory(tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "memory.db").write_bytes(gzip.decompress(_OLD.read_bytes()))
    with MemoryIndex.open(folder, encoder=ToyEncoder(4)) as memory:
        yield memory


def _rule(memory) -> int:
    with memory.snapshot() as snapshot:
        return snapshot.word_rule


def _by_words_alone(memory, query: str) -> str:
    return memory.search(query, k=1, embedding=np.ones(memory.dim))[0].document_id


@pytest.mark.parametrize("mode", ["flat", "beam"])
@pytest.mark.parametrize("script", _SYLLABLES)
def test_names_of_every_script_are_found_by_their_words(tmp_path, script, mode):
    syllables, rng = _SYLLABLES[script].split(), np.random.default_rng(0)
    names = sorted({"".join(rng.choice(syllables, 3)) for _ in range(40)})
    with MemoryIndex.open(tmp_path / "memory", encoder=VectorsOnly(3)) as memory:
        memory.add([Document(f"{n}: {n}.", id=n) for n in names], embeddings=[np.ones(3)] * len(names))
        found = memory.search_batch(names, k=1, embeddings=[np.ones(3)] * len(names), mode=mode)
        assert [hit.document_id for (hit,) in found] == names
        assert memory.verify().problems == ()


def test_a_memory_of_the_first_rule_is_searched_edited_and_verified_by_it(old_memory):
    assert _rule(old_memory) == FIRST_RULE
    assert {one.id: one.text for one in old_memory.documents()} == _OLD_TEXTS
    assert old_memory.verify().problems == ()
    found = old_memory.search_batch(_OLD_TEXTS.values(), k=1)
    assert [hit.document_id for (hit,) in found] == list(_OLD_TEXTS)
    old_memory.add([Document("नया वाक्य", id="new"), Document("another plain text", id="soft")])
    assert _by_words_alone(old_memory, "नया") == "new"
    assert old_memory.remove(["hindi"]).erased
    assert _by_words_alone(old_memory, "नया") == "new"
    assert old_memory.verify().problems == ()
    assert _rule(old_memory) == FIRST_RULE


def test_an_old_memory_reopened_keeps_its_rule(old_memory):
    old_memory.close()
    with MemoryIndex.open(old_memory.path, encoder=ToyEncoder(4)) as again:
        assert _rule(again) == FIRST_RULE
        assert again.verify().ok


@pytest.mark.parametrize("way", ["reembed", "import"])
def test_a_copy_has_the_newest_rule(old_memory, tmp_path, way):
    if way == "reembed":
        reembed(old_memory, tmp_path / "copy", ToyEncoder(4), progress=False)
    with MemoryIndex.open(tmp_path / "copy", encoder=ToyEncoder(4)) as copy:
        if way == "import":
            assert copy.import_records(old_memory.export()).encoded == 0
        assert _rule(copy) == WORD_RULE
        assert _by_words_alone(copy, "हिन्दी") == "hindi"
        assert _by_words_alone(copy, "donaudampfschiff") == "soft"
        assert _by_words_alone(copy, "כתב") == "hebrew"
        assert copy.verify().problems == ()


def test_a_backup_keeps_the_rule(old_memory, tmp_path):
    (tmp_path / "backup").mkdir()
    old_memory.backup(tmp_path / "backup" / "memory.db")
    with MemoryIndex.open(tmp_path / "backup", encoder=ToyEncoder(4)) as restored:
        assert _rule(restored) == FIRST_RULE
        assert restored.verify().ok
