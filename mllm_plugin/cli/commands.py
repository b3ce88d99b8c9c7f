"""All commands: what each is for, and the module that is loaded when it is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

import click

# by section of the help: a command, its module, what it is for
SECTIONS = {
    "Use": {
        "demo": ("demo", "See it all at work on the Python language reference."),
        "index": ("index", "Put files and folders into the memory."),
        "search": ("query", "Find the chunks that best answer QUERY."),
        "ask": ("ask", "Let a language model that reads the memory answer."),
        "read-index": ("read_index", "Write what a language model reads, ahead of time."),
        "list": ("query", "List documents with their labels and masks."),
        "show": ("query", "Print one document with its metadata."),
    },
    "Edit": {
        "mask": ("edit", "Hide documents until they are unmasked."),
        "unmask": ("edit", "Lift masks; a document is found again when none is left on it."),
        "remove": ("edit", "Erase documents for good."),
    },
    "Look after": {
        "stats": ("care", "Show counts, sizes and the levels of every tree."),
        "verify": ("care", "Check every invariant of the memory."),
        "compact": ("care", "Give free space back to the disk."),
        "backup": ("care", "Copy the memory into one FILE, while others may read and write."),
        "restore": ("care", "Make a memory from a backup."),
        "repair": ("care", "Save what can be read of a damaged memory."),
    },
    "Serve": {
        "mcp": ("serving", "Serve the memory to an agent, as tools over MCP."),
        "serve": ("serving", "Serve the memory over HTTP."),
        "token": ("serving", "Make a token for `mllm serve`."),
    },
    "Move": {
        "import": ("move", "Import JSON lines, a Chroma or a LanceDB folder."),
        "export": ("move", "Write documents as JSON lines."),
        "reembed": ("move", "Copy the memory with another encoder."),
    },
    "Train": {
        "train": ("train", "Train level encoders and rankers on the memory's documents."),
        "install": ("train", "Put a HIERARCHY in place and fold every node anew."),
        "train-llm": ("train_llm", "Train a language model to write and read the memory."),
    },
}
_MODULES = {name: module for section in SECTIONS.values() for name, (module, _) in section.items()}


class Commands(Mapping[str, click.Command]):
    """The commands by name; each is loaded when it is asked for."""

    def __getitem__(self, name: str) -> click.Command:
        module = import_module(f"mllm_plugin.cli.{_MODULES[name]}")
        return next(command for command in module.COMMANDS if command.name == name)

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)
