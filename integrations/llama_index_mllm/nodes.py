"""Nodes of LlamaIndex to documents of a memory, and back.

A node is kept as one document of one chunk: same id and text, its metadata, and what `node_to_metadata_dict`
adds to that. On the way back it is made from the latter alone, so nothing of ours shows in a prompt.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from typing import Any

from llama_index.core.schema import (
    BaseNode,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
from pydantic_core import to_jsonable_python

from mllm_plugin import Document, Hit
from mllm_plugin.errors import InvalidDocumentError
from mllm_plugin.types import StoredDocument

NODE_ID = "_node_id"
SOURCE_ID = "_source_id"
"""The id of the document that a node was cut from; its own id for a node without a source."""

_BLANK = "_node_blank"
_CONTENT = "_node_content"
_SHARED_KEYS = ("document_id", "doc_id", "ref_doc_id")
_CHUNK_IDS = uuid.UUID("a9e5a1ba-4a7d-5d3c-9d0e-3f2d6c1b7e54")


def document_of(node: BaseNode) -> Document:
    """The document that keeps a node. A blank node is found by what it was embedded with, its metadata.

    Raises:
        InvalidDocumentError: A value in its metadata cannot be written as JSON, or would be lost.
    """
    text = node.get_content(MetadataMode.NONE)
    blank = not text.strip()
    metadata = {
        **_written(node, remove_text=not blank),
        **{key: node.metadata[key] for key in _SHARED_KEYS if key in node.metadata},
        NODE_ID: node.node_id,
        SOURCE_ID: node.ref_doc_id or node.node_id,
    }
    metadata.pop(_BLANK, None)
    if blank:
        text = node.get_content(MetadataMode.EMBED).strip() or node.node_id
        metadata[_BLANK] = True
    return Document(text=text, id=node.node_id, metadata=metadata)


def node_of(document: StoredDocument) -> BaseNode:
    """The node of a whole document."""
    return _kept_node(document.id, document.text, document.metadata) or _text_node(
        document.id, document.id, document.text, document.metadata
    )


def chunk_node(hit: Hit) -> BaseNode:
    """The node of a chunk; its id depends on namespace, document and span alone."""
    kept = _kept_node(hit.document_id, hit.text, hit.metadata)
    if kept is not None:
        return kept
    name = json.dumps([hit.namespace, hit.document_id, hit.start, hit.end])
    node = _text_node(str(uuid.uuid5(_CHUNK_IDS, name)), hit.document_id, hit.text, hit.metadata)
    node.start_char_idx, node.end_char_idx = hit.start, hit.end
    return node


def scored_node(hit: Hit, *, include_path: bool, asked: bool = True) -> NodeWithScore:
    """A hit with its relevance as score; on request with where it came from, out of sight of prompts.

    Args:
        hit: What was found.
        include_path: Add score, relevance and path to the metadata.
        asked: Whether something was asked for; else there is no score.
    """
    node = chunk_node(hit)
    if include_path:
        path = [step._asdict() for step in hit.path]
        found = {"score": hit.score, "relevance": hit.relevance, "path": path}
        own = {key: value for key, value in found.items() if key not in node.metadata}
        node.metadata = {**node.metadata, **own}
        node.excluded_llm_metadata_keys = [*node.excluded_llm_metadata_keys, *own]
        node.excluded_embed_metadata_keys = [*node.excluded_embed_metadata_keys, *own]
    return NodeWithScore(node=node, score=hit.relevance if asked else None)


def _written(node: BaseNode, *, remove_text: bool) -> dict[str, Any]:
    try:
        for key, value in node.metadata.items():
            _check(key, value, f"node {node.node_id!r}: metadata {key!r}")
        return node_to_metadata_dict(node, remove_text=remove_text)
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidDocumentError):
            raise
        raise InvalidDocumentError(f"node {node.node_id!r} cannot be written as JSON: {error}") from error


def _check(key: Any, value: Any, where: str) -> None:
    """Looks into lists and objects; LlamaIndex by itself names no key, and makes null of NaN."""
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        pairs = value.items() if isinstance(value, Mapping) else ((key, item) for item in value)
        for inner, item in pairs:
            _check(inner, item, where)
        return
    try:
        for text in (key, value):
            to_jsonable_python(text, inf_nan_mode="constants")
            if isinstance(text, str):
                text.encode("utf-8")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("JSON has no such number; leave the key out, or use None")
    except (TypeError, ValueError) as error:
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        raise InvalidDocumentError(
            f"{where} cannot be kept: {kind} {value!r:.80}: {error}. Nothing was added; expected what JSON "
            f"can hold, or what LlamaIndex writes as such (dates, UUIDs, paths, decimals)"
        ) from error


def _kept_node(document_id: str, text: str, metadata: Mapping[str, Any]) -> BaseNode | None:
    if metadata.get(NODE_ID) != document_id or _CONTENT not in metadata:
        return None
    return metadata_dict_to_node(dict(metadata), text=None if _BLANK in metadata else text)


def _text_node(node_id: str, document_id: str, text: str, metadata: Mapping[str, Any]) -> TextNode:
    source = RelatedNodeInfo(node_id=document_id, node_type=ObjectType.DOCUMENT)
    return TextNode(
        id_=node_id, text=text, metadata=dict(metadata), relationships={NodeRelationship.SOURCE: source}
    )
