"""Attacks on the product, a module a kind; `attack.py` beside this folder runs them.

A module has

    GOAL      trials of a whole campaign
    CASE      trials of a case, about
    warm()    imports what a case needs, before cases are forked
    attack(random, folder) -> Verdict    one case: draws its trials from `random`, leaves the inputs
              of those that found something in `folder`
    PLANTS    name -> a function that breaks the product in this process; the attack must notice

A case runs in a fork of its own, under limits (`children.py`), and is judged from outside as well:
whether a signal ended it, how long its trials took, how much memory it had (`judge.py`).
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

KINDS = (
    "kills", "flips", "resealed", "pictures", "labels", "documents", "manifests", "runs", "links",
    "disk_faults", "allocations",
)  # fmt: skip


def module_of(kind: str) -> ModuleType:
    """Imports the module of a kind of attack."""
    return import_module(f"{__name__}.{kind}")
