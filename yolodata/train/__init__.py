"""Training that keeps every device busy and survives: a layer over Ultralytics' trainers."""
