"""A study's folder: its layout, and reading a finished study. Torch-free."""
