"""Training of level encoders and rankers (`routing`), of the leaf ranker, and of readers; needs torch.

Names are loaded when they are asked for, so that settings can be read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mllm_plugin.extras import needs

if TYPE_CHECKING:
    from mllm_plugin.training.leaf import LeafEvidence, LeafTraining, collect_evidence, train_leaf
    from mllm_plugin.training.losses import listwise_loss, softmax_loss
    from mllm_plugin.training.reader.config import ReaderTrainingConfig
    from mllm_plugin.training.reader.run import ReaderTrainingReport, train_reader
    from mllm_plugin.training.routing.config import TrainingConfig
    from mllm_plugin.training.routing.fit import Comparison, Fitted, fit
    from mllm_plugin.training.routing.grouping import Grouping, draw_grouping
    from mllm_plugin.training.routing.run import TrainingReport, train_memory
    from mllm_plugin.training.routing.samples import Samples, collect_samples, draw_spans

_HOMES = {
    "Comparison": "routing.fit",
    "Fitted": "routing.fit",
    "Grouping": "routing.grouping",
    "LeafEvidence": "leaf",
    "LeafTraining": "leaf",
    "ReaderTrainingConfig": "reader.config",
    "ReaderTrainingReport": "reader.run",
    "Samples": "routing.samples",
    "TrainingConfig": "routing.config",
    "TrainingReport": "routing.run",
    "collect_evidence": "leaf",
    "collect_samples": "routing.samples",
    "draw_grouping": "routing.grouping",
    "draw_spans": "routing.samples",
    "fit": "routing.fit",
    "listwise_loss": "losses",
    "softmax_loss": "losses",
    "train_leaf": "leaf",
    "train_memory": "routing.run",
    "train_reader": "reader.run",
}

__all__ = [
    "Comparison",
    "Fitted",
    "Grouping",
    "LeafEvidence",
    "LeafTraining",
    "ReaderTrainingConfig",
    "ReaderTrainingReport",
    "Samples",
    "TrainingConfig",
    "TrainingReport",
    "collect_evidence",
    "collect_samples",
    "draw_grouping",
    "draw_spans",
    "fit",
    "listwise_loss",
    "softmax_loss",
    "train_leaf",
    "train_memory",
    "train_reader",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needs("train", "training"):
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
