"""Training of level encoders, rankers and the leaf ranker; needs torch, and nothing else imports it."""

from mllm_plugin.extras import needs

with needs("train", "training"):
    import torch  # noqa: F401 - everything here needs it

from mllm_plugin.training.config import TrainingConfig
from mllm_plugin.training.fit import Comparison, Fitted, fit
from mllm_plugin.training.grouping import Grouping, draw_grouping
from mllm_plugin.training.leaf import LeafEvidence, LeafTraining, collect_evidence, train_leaf
from mllm_plugin.training.losses import listwise_loss, softmax_loss
from mllm_plugin.training.run import TrainingReport, train_memory
from mllm_plugin.training.samples import Samples, collect_samples, draw_spans

__all__ = [
    "Comparison",
    "Fitted",
    "Grouping",
    "LeafEvidence",
    "LeafTraining",
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
]
