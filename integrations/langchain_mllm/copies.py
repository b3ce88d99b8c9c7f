"""A pickle holds what opens a memory again in another process, or is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial

from mllm_plugin import MemoryIndex
from mllm_plugin.errors import InvalidTypeError
from mllm_plugin.protocols import TextEncoder


def opener(memory: MemoryIndex) -> Callable[[], MemoryIndex]:
    """What opens a memory again.

    Raises:
        InvalidTypeError: Its encoder cannot be pickled.
    """
    encoder, path = picklable(memory.encoder), memory.path.absolute()
    return partial(MemoryIndex.open, path, encoder=encoder, config=memory.config, create=False)


def picklable(encoder: TextEncoder) -> TextEncoder:
    """The encoder, if it can be pickled.

    Raises:
        InvalidTypeError: It cannot.
    """
    try:
        pickle.dumps(encoder)
    except Exception as error:
        raise InvalidTypeError(
            f"the encoder {type(encoder).__name__} cannot be pickled ({error}), and so what holds it cannot; "
            f"give it a __reduce__ that names what loads it, or open the memory in the other process"
        ) from error
    return encoder
