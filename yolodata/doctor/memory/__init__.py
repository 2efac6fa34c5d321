"""Memory: what training takes at its peak, which batch fits, and what other settings change."""

from yolodata.doctor.memory.section import examine

__all__ = ["examine"]
