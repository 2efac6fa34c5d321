"""Faults that `benchmarks/doctor.py` injects, one file a group."""
