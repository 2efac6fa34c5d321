"""docs/troubleshooting.md quotes messages that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def texts() -> str:
    """All texts in the source but docstrings; … stands for what is put into one."""
    found = []
    for file in (ROOT / "yolodata").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", "") for part in node.values]
                found.append("".join(part if isinstance(part, str) else "…" for part in parts))
            elif isinstance(node, ast.Constant) and id(node) not in docstrings:
                found.append(str(node.value))
    for file in (ROOT / "csrc").rglob("*.cpp"):
        found += re.findall(r'"([^"\n]+)"', file.read_text())
    return "\n".join(found)


def test_what_is_quoted_is_said_somewhere() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r'"([^"\n]+)"', page)
    assert len(quoted) > 40
    said = texts()
    pieces = {piece.strip(" :;,.") for text in quoted for piece in text.split("…")}
    assert not sorted(piece for piece in pieces if len(piece) > 3 and piece not in said)
    for link, anchor in re.findall(r"\]\(([\w.-]+)#?([\w-]*)\)", page):
        titles = re.findall(r"^#+ (.+)$", (ROOT / "docs" / link).read_text(), re.MULTILINE)
        assert not anchor or anchor in {title.lower().replace(" ", "-") for title in titles}
