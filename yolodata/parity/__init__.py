"""Our batches against those of the installed Ultralytics."""
