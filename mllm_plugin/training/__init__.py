"""Training of level encoders and rankers (`routing`), of the leaf ranker, and of readers; needs torch."""

from mllm_plugin.training.leaf import LeafEvidence, LeafTraining, collect_evidence, train_leaf
from mllm_plugin.training.losses import listwise_loss, softmax_loss
from mllm_plugin.training.reader.config import ReaderTrainingConfig
from mllm_plugin.training.reader.run import ReaderTrainingReport, train_reader
from mllm_plugin.training.routing.config import TrainingConfig
from mllm_plugin.training.routing.fit import Comparison, Fitted, fit
from mllm_plugin.training.routing.grouping import Grouping, draw_grouping
from mllm_plugin.training.routing.run import TrainingReport, train_memory
from mllm_plugin.training.routing.samples import Samples, collect_samples, draw_spans

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
