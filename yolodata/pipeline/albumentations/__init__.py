"""Albumentations' transforms inside the stream of batches."""
