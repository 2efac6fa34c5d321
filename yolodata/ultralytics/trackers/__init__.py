"""Experiment trackers that Ultralytics has started: what they are told beside its own metrics."""
