"""What a packed dataset holds, or what a run, a checkpoint or weights were made of."""
