"""Shard datasets on disk: the format, the writer, the reader. See docs/shard-format.md."""

from __future__ import annotations

from yolodata.shards.format import DatasetMeta, FileEntry
from yolodata.shards.journal import Annotation
from yolodata.shards.reader import ShardDataset, open, read_meta, splits, unfinished
from yolodata.shards.relabel import replace_labels
from yolodata.shards.sample import StoredSample
from yolodata.shards.writer import Progress, ShardWriter

__all__ = [
    "Annotation",
    "DatasetMeta",
    "FileEntry",
    "Progress",
    "ShardDataset",
    "ShardWriter",
    "StoredSample",
    "open",
    "read_meta",
    "replace_labels",
    "splits",
    "unfinished",
]
