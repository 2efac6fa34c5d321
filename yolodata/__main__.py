"""`python -m yolodata`, the same as `yolodata`."""

from __future__ import annotations

import sys

from yolodata.cli import main

sys.exit(main())
