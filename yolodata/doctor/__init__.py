"""Why training is slow, fails or learns badly: found by taking one thing away at a time."""
