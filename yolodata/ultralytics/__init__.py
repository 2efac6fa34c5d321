"""Ultralytics on yolodata's loaders. The only package that imports ultralytics at run time."""
