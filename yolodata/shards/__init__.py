"""Shard datasets on disk: the format, the writer, the reader. See docs/shard-format.md."""

from __future__ import annotations

from yolodata.shards.format import DatasetMeta, LabelsEntry, ShardEntry
from yolodata.shards.reader import ShardDataset, open, read_meta, splits, unfinished
from yolodata.shards.relabel import replace_labels
from yolodata.shards.sample import Annotation, LeftOut, StoredSample
from yolodata.shards.writer import Progress, ShardWriter

__all__ = [
    "Annotation",
    "DatasetMeta",
    "LabelsEntry",
    "LeftOut",
    "Progress",
    "ShardDataset",
    "ShardEntry",
    "ShardWriter",
    "StoredSample",
    "open",
    "read_meta",
    "replace_labels",
    "splits",
    "unfinished",
]
