"""The step of one rank among others: by itself, together, and with all gradients sent at once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist

from yolodata.doctor.ranks.neighbour import Neighbour
from yolodata.doctor.ranks.waiting import WaitingNetwork
from yolodata.doctor.setup import Setup
from yolodata.doctor.step import ModelStep, drawn_batch
from yolodata.machine import usable_cores
from yolodata.train.distributed.data_parallel import data_parallel
from yolodata.train.distributed.process_group import ProcessGroup, share_cores
from yolodata.ultralytics.command_line import open_model


class RankStep:
    """A training step with a batch that never changes; all ranks make it.

    Weights stay as they are: ranks that do not exchange gradients would drift apart.

    Args:
        setup: what is examined; its batch is that of all ranks together.
        group: of the ranks, not started yet.

    Attributes:
        network: the model of this rank.
        device: it is on.
        forward_ms: milliseconds of the forward pass of the last step, in which no rank waits for
            another; on a GPU, those of its launch.
        cpu_ms: milliseconds of processor time of this process in the last step.

    Raises:
        ConfigError: the model or an argument cannot be used.
    """

    def __init__(self, setup: Setup, group: ProcessGroup) -> None:
        arguments = {**setup.arguments, "device": group.device(setup.train.device)}
        mine = dataclasses.replace(setup, arguments=arguments)
        self._loss: Callable[[], torch.Tensor]
        self._size = group.size
        if setup.step_ms is not None:
            made = open_model(setup.train.model).model
            self.network: torch.nn.Module = WaitingNetwork(made, setup.step_ms)
            self.device = torch.device("cpu")
            self._update: Callable[[], None] = self.network.zero_grad
            self._compiled = False
        else:
            step = ModelStep(mine)
            for one in step.trainer.optimizer.param_groups:
                one["lr"] = 0.0
            batch = drawn_batch(mine)
            self._step: Any = step
            self.network, self.device = step.trainer.model, step.device
            self._compiled = bool(setup.train.compile)
            self._batch, self._update = batch, step.trainer.optimizer_step
        share_cores(group.local_size)
        self._parallel: Any = None
        self._local: Any = None
        self._neighbour: Neighbour | None = None
        self.forward_ms = 0.0
        self.cpu_ms = self._cpu_ms_alone = 0.0  # the latter of the last step alone

    def connect(self) -> None:
        """Wraps the model as training does, and makes the first steps; the group is started."""
        self._use(data_parallel(self.network, self.device, self._compiled))
        for _ in range(2):  # DDP may sort its buckets after the first
            self.together()
        self.alone()

    def _use(self, parallel: Any) -> None:
        self._parallel = parallel
        if isinstance(self.network, WaitingNetwork):
            self._loss = parallel
        else:
            self._step.trainer.model = parallel
            self._loss = self._forward

    def _forward(self) -> torch.Tensor:
        step = self._step
        scaled: torch.Tensor = step.trainer.scaler.scale(step.forward(self._batch))
        return scaled

    @property
    def buckets(self) -> list[int]:
        """Bytes that travel at once, in their order, as DDP has them."""
        told = self._parallel._get_ddp_logging_data()
        sizes = told.get("rebuilt_bucket_sizes") or told["bucket_sizes"]
        return [int(size) for size in str(sizes).split(",")]

    @property
    def tensors(self) -> int:
        """Gradients of the model."""
        return sum(parameter.requires_grad for parameter in self.network.parameters())

    def alone(self) -> float:
        """Makes a step without the others; returns its milliseconds."""
        taken = self._timed(self._parallel.no_sync())
        self._cpu_ms_alone = self.cpu_ms
        return taken

    def together(self) -> float:
        """Makes a step as training does; returns its milliseconds."""
        return self._timed(nullcontext())

    def at_once(self) -> float:
        """Makes a step that sends all gradients after the backward pass; returns milliseconds."""
        return self._timed(self._parallel.no_sync(), self._send)

    def join_neighbour(self) -> bool:
        """Makes `beside` possible; False where there is no loopback interface, or DDP refuses."""
        # The other wrapping takes no notice of backward passes that it has not begun.
        self._local = data_parallel(self.network, self.device, self._compiled)
        try:
            self._neighbour = neighbour = Neighbour()
            self._local.register_comm_hook(
                None, lambda state, bucket: neighbour.mean(bucket.buffer())
            )
        except RuntimeError:  # one hook is there already
            return False
        return True

    def beside(self) -> float:
        """Makes a step whose gradients go to a neighbour of this machine; returns milliseconds.

        On one core the neighbour takes turns with this rank: its half of the exchange, which a real
        one makes elsewhere, does not count.
        """
        usual = self._parallel
        self._use(self._local)
        try:
            taken = self.together()
        finally:
            self._use(usual)
        if len(usable_cores()) > 1:
            return taken
        return taken - max(0.0, self.cpu_ms - self._cpu_ms_alone) / 2

    @property
    def computes_here(self) -> bool:
        """Whether a step is this processor's work, and not a GPU's or a wait."""
        return self.device.type == "cpu" and not isinstance(self.network, WaitingNetwork)

    def close(self) -> None:
        """Ends the neighbour."""
        if self._neighbour is not None:
            self._neighbour.close()

    def _send(self) -> None:
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self._size
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def _timed(
        self, apart: AbstractContextManager[None], then: Callable[[], None] = lambda: None
    ) -> float:
        begun, used = time.perf_counter(), time.process_time()
        with apart:
            loss = self._loss()
            self.forward_ms = (time.perf_counter() - begun) * 1e3
            loss.backward()  # type: ignore[no-untyped-call]
        then()
        self._update()
        float(loss.detach())  # the device is done
        self.cpu_ms = (time.process_time() - used) * 1e3
        return (time.perf_counter() - begun) * 1e3
