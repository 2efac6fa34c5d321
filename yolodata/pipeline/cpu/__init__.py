"""Batches made by CPU threads."""
