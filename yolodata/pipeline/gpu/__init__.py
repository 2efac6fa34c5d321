"""Batches made in GPU memory."""
