"""Nodes of LlamaIndex to documents of a memory, and back.

A node is kept as one document of one chunk: same id and text, its metadata, and what `node_to_metadata_dict`
adds to that. On the way back it is made from the latter alone, so nothing of ours shows in a prompt.
"""

from __future__ import annotations

import json
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

from mllm_plugin import Document, Hit
from mllm_plugin.types import StoredDocument

NODE_ID = "_node_id"
SOURCE_ID = "_source_id"
"""The id of the document that a node was cut from; its own id for a node without a source."""

_BLANK = "_node_blank"
_CONTENT = "_node_content"
_SHARED_KEYS = ("document_id", "doc_id", "ref_doc_id")
_CHUNK_IDS = uuid.UUID("a9e5a1ba-4a7d-5d3c-9d0e-3f2d6c1b7e54")


def document_of(node: BaseNode) -> Document:
    """The document that keeps a node. A blank node is found by what it was embedded with, its metadata."""
    text = node.get_content(MetadataMode.NONE)
    blank = not text.strip()
    metadata = {
        **node_to_metadata_dict(node, remove_text=not blank),
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


def scored_node(hit: Hit, *, include_path: bool) -> NodeWithScore:
    """A hit with its relevance as score; on request with where it came from, out of sight of prompts."""
    node = chunk_node(hit)
    if include_path:
        path = [step._asdict() for step in hit.path]
        found = {"score": hit.score, "relevance": hit.relevance, "path": path}
        own = {key: value for key, value in found.items() if key not in node.metadata}
        node.metadata = {**node.metadata, **own}
        node.excluded_llm_metadata_keys = [*node.excluded_llm_metadata_keys, *own]
        node.excluded_embed_metadata_keys = [*node.excluded_embed_metadata_keys, *own]
    return NodeWithScore(node=node, score=hit.relevance)


def _kept_node(document_id: str, text: str, metadata: Mapping[str, Any]) -> BaseNode | None:
    if metadata.get(NODE_ID) != document_id or _CONTENT not in metadata:
        return None
    return metadata_dict_to_node(dict(metadata), text=None if _BLANK in metadata else text)


def _text_node(node_id: str, document_id: str, text: str, metadata: Mapping[str, Any]) -> TextNode:
    source = RelatedNodeInfo(node_id=document_id, node_type=ObjectType.DOCUMENT)
    return TextNode(
        id_=node_id, text=text, metadata=dict(metadata), relationships={NodeRelationship.SOURCE: source}
    )
