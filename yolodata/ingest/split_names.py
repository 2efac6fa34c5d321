"""Which split does the name of a file or folder say? Whole words only.

`instances_train2017` says train and `valid` says val. `latest`, `interval` and `minitrain` hold the
letters of a split inside another word, and say nothing.
"""

from __future__ import annotations

import re

from yolodata.ingest.sample import SPLIT_WORDS
from yolodata.shards.format import SPLITS

_WORD = re.compile(r"[^\W\d_]+")  # letters, of any script
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")  # trainSet is two words
_MEANING = {**SPLIT_WORDS, "trainval": "train", "trainset": "train"}
_MEANING |= {"valset": "val", "testset": "test"}


def split_of(name: str) -> str | None:
    """Returns "train", "val" or "test", or None where a name says none of them, or several.

    "trainval", also as the two words train and val, is train.
    """
    said = splits_said(name)
    if said == {"train", "val"} and re.search(r"(?i)train[\W_]*val", name):
        return "train"
    return said.pop() if len(said) == 1 else None


def split_of_folder(name: str) -> str | None:
    """Returns the split that a folder is called like: `valid`, `train2017`; not `my_test`."""
    words = _WORD.findall(name)
    return _MEANING.get(words[0].lower()) if len(words) == 1 else None


def splits_said(name: str) -> set[str]:
    """Returns all splits that a name says; both train and val where it says trainval."""
    words = [word.lower() for word in _WORD.findall(_CAMEL.sub(" ", name))]
    said = {_MEANING[word] for word in words if word in _MEANING}
    return said | {"val"} if "trainval" in words else said


def says_nothing(name: str) -> bool:
    """Whether a name does not even hold the letters of a split, or of dev, inside a word."""
    return not any(letters in name.lower() for letters in (*SPLITS, "dev"))
