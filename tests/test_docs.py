"""The documents: what they name exists, can be called, and is up to date."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import yolodata

ROOT = Path(__file__).resolve().parents[1]


def test_the_api_page_is_made_of_the_docstrings() -> None:
    """Run `python docs/api.py` when this fails."""
    main: Callable[[list[str]], int] = runpy.run_path(str(ROOT / "docs" / "api.py"))["main"]
    assert main(["--check"]) == 0


def test_public_names_and_their_methods_have_docstrings() -> None:
    for name in yolodata.__all__:
        value = getattr(yolodata, name)
        assert value.__doc__, name
        for member, method in vars(value).items() if isinstance(value, type) else ():
            if not member.startswith("_") and (callable(method) or isinstance(method, property)):
                assert method.__doc__, f"{name}.{member}"
