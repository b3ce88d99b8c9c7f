"""Moving in and out: JSON lines, Chroma and LanceDB folders, as records for `MemoryIndex.import_records`."""

from mllm_plugin.transfer.jsonl import write_jsonl
from mllm_plugin.transfer.opening import open_source
from mllm_plugin.transfer.records import Record, placed
from mllm_plugin.transfer.source import Columns, Source

__all__ = ["Columns", "Record", "Source", "open_source", "placed", "write_jsonl"]
