"""From shards to batches: order, plan, pixels, and the loaders that put them together."""
