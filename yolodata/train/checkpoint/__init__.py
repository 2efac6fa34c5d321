"""The state of a run: on disk, at a URL, and back."""
