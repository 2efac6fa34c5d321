"""left_out.json beside the splits: files of the source that belong to none of them, and why.

What a split names and does not hold is in its dataset.json. Both together, and the images, are all
that was found of a dataset.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from yolodata.errors import ShardError
from yolodata.files import read_regular
from yolodata.folders import Folder
from yolodata.shards.json_text import MAX_BYTES, parse_json

LEFT_OUT = "left_out.json"


def write_left_out(root: Path, left_out: Mapping[str, str]) -> None:
    """Says in a folder of splits what belongs to none of them: path -> reason.

    More than may be read of it is counted, and not listed.

    Raises:
        OSError: the folder cannot be written to.
    """
    listed = dict(left_out)
    text = _text(listed)
    while len(text) > MAX_BYTES:
        listed = dict(islice(listed.items(), len(listed) * 9 // 10))
        rest = f"{len(left_out) - len(listed)} more files"
        text = _text({**listed, rest: f"not listed, because a list has {MAX_BYTES} bytes at most"})
    with contextlib.suppress(ShardError):  # a damaged one is replaced
        if _text(read_left_out(root)) == text:
            return
    with Folder.at(root) as folder:
        folder.check_ours()
        folder.replace_alone(LEFT_OUT, text)


def _text(left_out: Mapping[str, str]) -> bytes:
    return (json.dumps(dict(left_out), indent=1) + "\n").encode()


def read_left_out(root: Path) -> dict[str, str]:
    """Reads that; nothing where nothing is said.

    Raises:
        ShardError: the file is damaged.
    """
    file = root / LEFT_OUT
    try:
        content = parse_json(read_regular(file, MAX_BYTES), str(file))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ShardError(f"{file}: cannot be read ({error}); pack again, or remove it") from None
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise ShardError(f"{file}: must map paths to reasons; pack again, or remove it")
    return content
