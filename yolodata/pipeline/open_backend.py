"""Which backend makes a loader's batches."""

from __future__ import annotations

from yolodata.pipeline.backend import Backend, BackendSpec


def open_backend(spec: BackendSpec) -> Backend:
    """Opens CPU threads, or a device.

    Raises:
        ConfigError: there is no such device.
    """
    if spec.device.on_cpu:
        from yolodata.pipeline.cpu.backend import CpuBackend

        return CpuBackend(spec)
    from yolodata.pipeline.gpu.backend import GpuBackend

    return GpuBackend(spec)
