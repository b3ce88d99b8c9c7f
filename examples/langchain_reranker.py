"""A cross-encoder of LangChain scores the best chunks of every search anew.

Runs offline: token by token comparison with the default encoder stands in for a trained cross-encoder; put
LangChain's `HuggingFaceCrossEncoder`, or a `CrossEncoder` of sentence-transformers, in its place.
"""

import tempfile

from langchain_core.cross_encoders import BaseCrossEncoder

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from mllm_plugin.hierarchy import PairReranker

HANDBOOK = {
    "horn": "In fog the horn sounds for four seconds once every minute, day and night.",
    "bell": "When the horn fails, the bell is rung by hand for as long as fog lasts.",
    "lamp": "The lamp is lit half an hour before sunset and put out at sunrise.",
    "log": "The keeper writes wind, visibility and passing ships into the log every three hours.",
}
QUESTION = "What is done in fog if the horn is broken?"


class TokenByToken(BaseCrossEncoder):
    """Late interaction: for each token of the question the nearest one of the text, on average."""

    def __init__(self) -> None:
        self.encoder = HuggingFaceEncoder(window_tokens=1)

    def score(self, text_pairs):
        """One number from 0 to 1 for each (question, text)."""
        _, questions = self.encoder.encode_query_windows([question for question, _ in text_pairs])
        _, texts = self.encoder.encode_documents([text for _, text in text_pairs])
        return [(words @ text.T).max(axis=1).mean() for words, text in zip(questions, texts, strict=True)]


def main() -> None:
    """Searches a memory without and with the cross-encoder."""
    reranker = PairReranker(TokenByToken(), finalists=20, calibrated=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        MemoryIndex.open(folder, reranker=reranker) as memory,
    ):
        memory.add([Document(text, id=name) for name, text in HANDBOOK.items()])
        for name, hits in (
            ("leaf ranker", memory.search(QUESTION, k=2, reranker=None)),
            ("cross-encoder", memory.search(QUESTION, k=2)),
        ):
            print(f"{name}: " + ", ".join(f"{hit.document_id} {hit.relevance:.2f}" for hit in hits))


if __name__ == "__main__":
    main()
