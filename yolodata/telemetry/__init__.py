"""Counters, stage timers and records of steps: what was done, how often, and how long it took.

stages       seconds by stage and events by name, of any thread
steps        a row for every training step
step_row     what a row has
attribution  what the waits of a step are due to
gauges       what can be read off this process and its GPU at any moment
clocks       moments on the host and in a GPU's stream
nvml         NVIDIA's management library
metrics      all of it for Prometheus
"""

from __future__ import annotations

from yolodata.telemetry.stages import Reading, Telemetry

__all__ = ["Reading", "Telemetry"]
