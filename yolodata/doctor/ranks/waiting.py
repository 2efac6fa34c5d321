"""A network that waits instead of computing, with the parameters of another one."""

from __future__ import annotations

import time
from typing import Any

import torch

from yolodata.doctor.ranks.judge import BACKWARD


class WaitingNetwork(torch.nn.Module):
    """Its gradients become ready one after the other while the backward pass waits.

    It stands for a network on a GPU that is not here: its gradients travel meanwhile, as they would
    there.

    Args:
        model: whose parameters are taken, in their order; it is not changed.
        milliseconds: of a step.
    """

    def __init__(self, model: torch.nn.Module, milliseconds: float) -> None:
        super().__init__()
        self.taken = torch.nn.ParameterList(
            torch.nn.Parameter(torch.zeros_like(parameter)) for parameter in model.parameters()
        )
        self._seconds = milliseconds / 1e3
        self._begun = 0.0  # of the backward pass

    def forward(self) -> torch.Tensor:
        """Returns a loss of 0."""
        time.sleep(self._seconds * (1 - BACKWARD))
        total, before = sum(parameter.numel() for parameter in self.taken), 0
        loss: Any = torch.zeros((), requires_grad=True)
        for parameter in self.taken:
            # Of the backward pass, what comes after a parameter is over when its turn comes.
            before += parameter.numel()
            share = 1 - (before - parameter.numel()) / total
            loss = _Waiting.apply(loss, parameter, self, share)
        result: torch.Tensor = loss
        return result

    def wait(self, share: float) -> None:
        """Waits until so large a share (0-1) of the backward pass is over."""
        if self._begun == 0.0:
            self._begun = time.perf_counter()
        due = self._begun + self._seconds * BACKWARD * share - time.perf_counter()
        if due > 1e-3 or (share == 1.0 and due > 0):
            time.sleep(due)
        if share == 1.0:
            self._begun = 0.0


class _Waiting(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        loss: torch.Tensor,
        parameter: torch.Tensor,
        network: WaitingNetwork,
        share: float,
    ) -> torch.Tensor:
        ctx.network, ctx.share, ctx.shape = network, share, parameter.shape
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        ctx.network.wait(ctx.share)
        return gradients[0], torch.zeros(ctx.shape), None, None
