"""A study's folder: where things are in it, and reading a finished one. Torch-free."""
