"""What a run was made of: the versions of its dataset, settings, packages and code."""
