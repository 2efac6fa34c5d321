"""Writes the dashboard of training runs, grafana/dashboards/yolodata.json.

python deploy/monitoring/dashboard.py            renews it
python deploy/monitoring/dashboard.py --check    fails if it is not up to date
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, Row
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

PAGE = Path(__file__).parent / "grafana" / "dashboards" / "yolodata.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")

RUN = '{run=~"$run"}'
RATE = f"{RUN}[$__rate_interval]"
RANK = "{{run}} rank {{rank}}"
HOST = "{{run}} on {{host}}"

Targets = Sequence[tuple[str, str]]
"""Expressions, each with the legend of its series."""


def rate(name: str) -> str:
    """The expression of what a counter of the runs shown grows by in a second."""
    return f"rate(yolodata_{name}{RATE})"


WAITED = f"yolodata:wait:ratio_rate5m{RUN}"


def _queries(panel: timeseries.Panel | stat.Panel, targets: Targets) -> None:
    for letter, (expression, legend) in zip(ascii_uppercase, targets, strict=False):
        query = prometheus.Dataquery().expr(expression).legend_format(legend)
        panel.with_target(query.ref_id(letter).range())


def graph(
    title: str,
    unit: str,
    *targets: tuple[str, str],
    about: str = "",
    stacked: bool = False,
    width: int = 8,
    most: float | None = None,
) -> timeseries.Panel:
    """A panel of curves from 0 on.

    Args:
        title: above it.
        unit: of its values, as Grafana names it.
        targets: its expressions, each with the legend of its series.
        about: what it shows, where the title does not say it.
        stacked: curves stand on each other.
        width: of 24 columns.
        most: upper end.
    """
    panel = timeseries.Panel().title(title).description(about).unit(unit).datasource(SOURCE)
    panel.span(width).height(8).min(0).line_width(1).fill_opacity(60 if stacked else 8)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if most is not None:
        panel.max(most)
    legend = common.VizLegendOptions().show_legend(True)
    panel.legend(
        legend.display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).calcs([])
    )
    _queries(panel, targets)
    return panel


def number(
    title: str, unit: str, expression: str, limits: Sequence[tuple[float, str]] = ()
) -> stat.Panel:
    """A panel of the last value.

    Args:
        title: above it.
        unit: of the value, as Grafana names it.
        expression: whose last value it shows.
        limits: values from which on it has another colour.
    """
    steps = [Threshold(value=None, color="green")]
    steps += [Threshold(value=value, color=colour) for value, colour in limits]
    thresholds = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
    panel = stat.Panel().title(title).unit(unit).datasource(SOURCE).thresholds(thresholds)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).span(4).height(4)
    _queries(panel, [(expression, "{{run}}")])
    return panel


def numbers() -> list[stat.Panel]:
    """How the run is, at a glance."""
    best = 'yolodata_map{run=~"$run",iou="0.5:0.95"}'
    return [
        number("Pictures a second", "short", f"sum by (run) ({rate('images_total')})"),
        number("Waiting for batches", "percentunit", f"max by (run) ({WAITED})",
               [(0.05, "yellow"), (0.1, "red")]),
        number("Epoch", "none", f"max by (run) (yolodata_epoch{RUN})"),
        number("Step", "none", f"max by (run) (yolodata_step{RUN})"),
        number("Since the last checkpoint", "s", f"yolodata:checkpoint_age_seconds:min{RUN}",
               [(1800.0, "red")]),
        number("Best mAP50-95 in this time", "none",
               f"max by (run) (max_over_time({best}[$__range]))"),
    ]  # fmt: skip


def time() -> list[timeseries.Panel]:
    """Where the time of steps goes."""
    buckets = f"sum by (run, le) ({rate('step_seconds_bucket')})"
    parts = f"sum by (run, part) ({rate('step_part_seconds_total')})"
    steps = f"sum by (run) ({rate('step_seconds_count')})"
    return [
        graph("Time of a step", "s",
              *((f"histogram_quantile({q}, {buckets})", f"{{{{run}}}} p{round(100 * q)}")
                for q in (0.5, 0.9, 0.99)),
              about="Median, and what one step of ten and one of a hundred exceed."),
        graph("What a step's time went to", "s",
              (f"{parts} / on (run) group_left {steps}", "{{run}} {{part}}"),
              about="Mean over ranks and steps, of what is known. Validation and saving are between"
                    " two steps.", stacked=True),
        graph("Waiting for batches", "percentunit", (WAITED, RANK), most=1,
              about="Share of its time in which a rank has nothing to train on."),
        graph("Time of a step without waiting for slower ranks", "s",
              (f"yolodata:own_step_seconds:mean_rate5m{RUN}", RANK),
              about="The highest curve is the rank that all others wait for."),
        graph("Times as slow as the median rank", "none",
              (f"yolodata:own_step_seconds:ratio_to_median{RUN}", RANK)),
        graph("Pictures a second", "short", (rate("images_total"), RANK), stacked=True),
    ]  # fmt: skip


def learning() -> list[timeseries.Panel]:
    """What the model learns."""
    return [
        graph("Loss", "none", ('yolodata_loss{run=~"$run",rank="0"}', "{{run}} {{item}}"),
              about="Mean over the epoch so far, as the progress bar has it."),
        graph("Loss of the validation", "none",
              (f"yolodata_validation_loss{RUN}", "{{run}} {{item}}")),
        graph("Mean average precision", "none",
              (f"yolodata_map{RUN}", "{{run}} {{of}} {{iou}}"), most=1),
        graph("Gradient scale", "none", (f"yolodata_gradient_scale{RUN}", RANK)),
        graph("Skipped optimiser steps", "none",
              (f"increase(yolodata_skipped_steps_total{RATE})", RANK)),
        graph("NaN losses", "none", (f"yolodata:nan_losses:count{RUN}", RANK)),
    ]  # fmt: skip


def data() -> list[timeseries.Panel]:
    """Where images come from."""
    hits, decoded = rate("cache_hits_total"), rate("decode_images_total")
    return [
        graph("Images decoded a second", "short", (decoded, RANK)),
        graph("Uses of a decoded image that was in memory", "percentunit",
              (f"{hits} / ({hits} + {decoded})", RANK), most=1),
        graph("Time of decoding an image", "s",
              (f"{rate('decode_seconds_total')} / {decoded}", RANK), about="Of one thread."),
        graph("Read from disk", "Bps", (rate("disk_read_bytes_total"), RANK),
              about="Past the page cache."),
        graph("Received from the network", "Bps", (rate("network_receive_bytes_total"), HOST),
              about="By the whole machine, loopback excluded."),
        graph("Images that cannot be read", "none",
              (f"yolodata_unreadable_images_total{RUN}", RANK)),
    ]  # fmt: skip


def machine() -> list[timeseries.Panel]:
    """Checkpoints, disk, memory, processors."""
    written = f"sum by (run) (yolodata_checkpoint_write_seconds_total{RUN})"
    idle = 'node_cpu_seconds_total{mode="idle"}[$__rate_interval]'
    return [
        graph("Since the last checkpoint", "s",
              (f"yolodata:checkpoint_age_seconds:min{RUN}", "{{run}}"),
              about="What would be lost now."),
        graph("Time of writing a checkpoint", "s",
              (f"{written} / sum by (run) (yolodata_checkpoints_total{RUN})", "{{run}}"),
              about="Mean over the run; by a thread, beside training."),
        graph("Size of a checkpoint", "bytes",
              (f"yolodata_checkpoint_size_bytes{RUN}", "{{run}}")),
        graph("Disk of the run folder that is free", "percentunit",
              (f"yolodata:disk_free:ratio{RUN}", HOST), most=1),
        graph("Memory of the machine that is free", "bytes",
              (f"yolodata_host_memory_available_bytes{RUN}", HOST)),
        graph("/dev/shm that is free", "bytes", (f"yolodata_shm_free_bytes{RUN}", HOST)),
        graph("Memory of ranks", "bytes", (f"yolodata_private_memory_bytes{RUN}", RANK),
              about="Without what is shared: mapped shards in the page cache."),
        graph("Processors busy", "percentunit",
              (f"1 - avg by (instance) (rate({idle}))", "{{instance}}"),
              about="node-exporter's.", most=1),
    ]  # fmt: skip


def gpu() -> list[timeseries.Panel]:
    """GPUs, by whoever tells about them."""
    told = (
        ("Busy", "percentunit", "GPU_UTIL / 100", "busy_ratio"),
        ("Memory in use", "bytes", "FB_USED * 1048576", "memory_used_bytes"),
        ("Power", "watt", "POWER_USAGE", "power_watts"),
        ("Temperature", "celsius", "GPU_TEMP", "temperature_celsius"),
    )
    return [
        graph(title, unit, (f"DCGM_FI_DEV_{dcgm} or yolodata_gpu_{own}{RUN}",
                            "{{Hostname}}{{host}} GPU {{gpu}}{{rank}}"), width=6)
        for title, unit, dcgm, own in told
    ]  # fmt: skip


def made() -> Dashboard:
    """The dashboard."""
    runs = (
        QueryVariable("run")
        .label("Run")
        .query("label_values(yolodata_steps_total, run)")
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
    )
    board = Dashboard("yolodata: training runs").uid("yolodata").tags(["yolodata"])
    board.refresh("15s").time("now-1h", "now").timezone("browser")
    board.tooltip(DashboardCursorSync.CROSSHAIR).with_variable(runs)
    for panel in numbers():
        board.with_panel(panel)
    for title, panels in (
        ("Where the time goes", time()),
        ("What is learned", learning()),
        ("Data", data()),
        ("Checkpoints and machine", machine()),
        ("GPU: dcgm-exporter's, or the ranks' own where there is none", gpu()),
    ):
        board.with_row(Row(title))
        for each in panels:
            board.with_panel(each)
    return board


def main(arguments: list[str]) -> int:
    """Carries out the command line; 1 if --check finds an old file."""
    text = JSONEncoder(sort_keys=True, indent=2).encode(made().build()) + "\n"
    if arguments == ["--check"]:
        if PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE} is not up to date; run python {Path(__file__).name}", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
