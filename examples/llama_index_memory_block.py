"""A memory behind a conversation: what no longer fits into the chat history goes to a `VectorMemoryBlock`.

Runs offline: `python examples/llama_index_memory_block.py`.
"""

import asyncio
from tempfile import TemporaryDirectory

from llama_index.core.llms import ChatMessage
from llama_index.core.memory import Memory, VectorMemoryBlock
from llama_index_mllm import HierarchicalMemoryVectorStore, MemoryEmbedding

from mllm_plugin import MemoryIndex

SAID = [
    "My sister Ada lives in Lisbon and keeps bees.",
    "I am allergic to peanuts.",
    "My bicycle is green and has a flat tyre.",
    "On Thursday I fly to Oslo.",
    "The code of my locker is 4711.",
    "I finished reading a book on whales.",
]


async def talk(memory: MemoryIndex, user: str) -> None:
    """Tells six things with room for two, then asks about an early one."""
    block = VectorMemoryBlock(
        vector_store=HierarchicalMemoryVectorStore(memory, namespace=("users", user)),
        embed_model=MemoryEmbedding(memory.encoder),
        similarity_top_k=1,
        retrieval_context_window=2,
    )
    chat = Memory.from_defaults(
        session_id=user,
        token_limit=60,
        token_flush_size=10,
        chat_history_token_ratio=0.5,
        memory_blocks=[block],
    )
    for text in [*SAID, "What am I allergic to?"]:
        await chat.aput(ChatMessage(role="user", content=text))

    for message in await chat.aget():
        print(f"{message.role.value}: {message.content}")


def main() -> None:
    """Opens a memory and talks to it, in a namespace of the user's own."""
    with TemporaryDirectory() as folder, MemoryIndex.open(folder) as memory:
        asyncio.run(talk(memory, "ada's brother"))


if __name__ == "__main__":
    main()
