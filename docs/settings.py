"""Writes docs/settings.md from the code: parsers of the commands, docstrings of the classes.

python docs/settings.py            renews the page
python docs/settings.py --check    fails if it is not up to date
"""

from __future__ import annotations

import sys
from pathlib import Path

from yolodata.cli import parsers
from yolodata.settings_cli import page

PAGE = Path(__file__).with_suffix(".md")

HEAD = """\
# Settings

<!-- Made by `python docs/settings.py` from the code; change that. -->

All settings: where they are given, name, default, meaning, example. `yolodata settings` prints the
same, `yolodata settings WORD` those with a word in their name.

On the command line `--name value`, `--name=value` and `name=value` are the same; `-` and `_` in a
name too. Flags are `--full`, `full=True` or `full=False`. What a command takes without a name can
be given with one: `yolodata shard out=coco.shards source=coco.yaml`. A file whose name has a `=` in
it is written `./a=b`. A name that is not known is refused, with the nearest one that is.

Exit statuses of every command: 0 is success, 130 an interruption. Status 1 is what the command
itself says (`verify` found damage, `parity` missed a limit, a row of `bench` failed). Status 2 is a
mistake, or an error that yolodata explains in one message that begins with `yolodata: `. `train`
has [two more](training.md). A traceback is a fault of yolodata's; please report it.

"""


def main(arguments: list[str]) -> int:
    """Carries out the command line; 1 if --check finds an old page."""
    made = HEAD + page(parsers())
    if arguments == ["--check"]:
        if PAGE.read_text(encoding="utf-8") == made:
            return 0
        print(f"{PAGE} is not up to date; run python docs/settings.py", file=sys.stderr)
        return 1
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
