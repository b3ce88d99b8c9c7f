"""Eight processes with one memory: every call is answered as if the others were not there.

`make soak` has each do 4,000 calls ($MLLM_MIXED).
"""

from __future__ import annotations

import os

from mllm_plugin import MemoryIndex
from tests.helpers.fault_tools import SOAK
from tests.helpers.robustness_tools import SMALL_GROUPS, some_documents, start_python
from tests.helpers.toy import ToyEncoder

MIXED = int(os.environ.get("MLLM_MIXED", 4000 if SOAK else 25))
PROCESSES = 8
ONE = """
import random, sys
from mllm_plugin import Document, MemoryIndex
from tests.helpers.toy import ToyEncoder

folder, name, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])
draw, own, masked = random.Random(name), {}, set()
memory = MemoryIndex.open(folder, encoder=ToyEncoder(), timeout=120)
for call in range(calls):
    key = f"{name}-{draw.randrange(12)}"
    way = draw.randrange(7) if own else 0
    if way < 2:
        own[key] = f"{name} word{call} shared " + "more " * draw.randrange(40)
        memory.add([Document(own[key], id=key, metadata={"who": name})])
    elif way == 2:
        report = memory.remove([key], wait=0)
        assert report.documents == (key in own)
        own.pop(key, None), masked.discard(key)
    elif way == 3 and key in own:
        memory.unmask([key]) if key in masked else memory.mask([key])
        masked ^= {key}
    elif way == 4:
        found = {one.id: one.text for one in memory.documents(filter={"who": name})}
        assert found == own, (found, own)
    elif way == 5:
        mode = draw.choice(["beam", "flat", "exact"])
        hits = memory.search(f"{name} shared", k=100, mode=mode, filter={"who": name})
        assert {hit.document_id for hit in hits} <= own.keys() - masked
        assert mode == "beam" or len(hits) == len(own.keys() - masked)
    else:
        assert len(memory.search("the old lighthouse", k=3)) == 3
memory.close()
print(*sorted(own))
"""


def test_eight_processes_mix_their_calls(tmp_path):
    folder = tmp_path / "memory"
    with MemoryIndex.open(folder, encoder=ToyEncoder(), config=SMALL_GROUPS) as memory:
        memory.add(some_documents(30))
    running = [start_python(ONE, folder, f"p{number}", MIXED) for number in range(PROCESSES)]
    expected = {document.id for document in some_documents(30)}
    for process in running:
        output, errors = process.communicate(timeout=36_000)
        assert process.returncode == 0, errors
        expected |= set(output.split())
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        assert {one.id for one in memory.documents()} == expected
        assert memory.verify().problems == ()
        assert memory.compact().erased
    print(f"{PROCESSES} processes, {PROCESSES * MIXED} calls")
