"""Whether a command ended as it should: by itself, soon, in words of its own."""

from __future__ import annotations

import re

from .children import Ended
from .verdict import Verdict

LINES = 60  # that a command may say: a summary lists twenty images a split
# A progress bar goes back to the beginning of its line.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LACKING = re.compile("memory does not suffice|MemoryError|bad_alloc")
# The C library ends a process that lacks memory for a thread's variables, and has these words.
_NO_THREAD = "cannot allocate memory for thread-local data: ABORT"


def ended_well(
    verdict: Verdict,
    ended: Ended,
    what: str,
    *,
    allowed: tuple[int, ...] = (0, 1, 2),
    memory: bool = False,
    lines: int = LINES,
) -> bool:
    """Adds what is wrong with the end of a command to a verdict; whether nothing is.

    Args:
        verdict: is added to.
        ended: the command's end.
        what: the trial.
        allowed: exit status.
        memory: it may lack memory, and then be ended by the C library.
        lines: that it may say; decoders say some of each damaged picture.
    """
    before = len(verdict.findings)
    said = f"{what}: {ended.how}"
    if memory and ended.status == 127 and _NO_THREAD in ended.said:
        return True
    if ended.hung:
        verdict.found("hang", said)
    elif ended.signal:
        verdict.found("signal", said)
    elif "Traceback (most recent call last)" in ended.said or ended.status not in allowed:
        lacking = _LACKING.search(ended.said) and not memory
        verdict.found("memory" if lacking else "traceback", said)
    elif _LACKING.search(ended.said) and not memory:
        verdict.found("memory", said)
    elif ended.said.count("\n") > lines or len(ended.said) > 200 * lines:
        verdict.found("traceback", f"{what}: {len(ended.said)} characters: {ended.said[:1500]}")
    elif found := _CONTROL.search(ended.said):
        verdict.found("traceback", f"{what}: says the control character {found[0]!r}: {said[-800:]}"
                      )  # fmt: skip
    return len(verdict.findings) == before
