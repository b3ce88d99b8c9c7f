"""Several processes under torchrun: each draws its own queries and groups, gradients are averaged."""

from __future__ import annotations

import os

import torch
from torch import distributed, nn


def start() -> None:
    """Joins the process group that torchrun describes, if it does."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def stop() -> None:
    """Leaves the process group."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    """Number of this process, 0 when it is alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this process shows progress and writes files."""
    return rank() == 0


def average_gradients(module: nn.Module) -> None:
    """Averages gradients over all processes."""
    if not distributed.is_initialized():
        return
    for parameter in module.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)
            parameter.grad /= distributed.get_world_size()
