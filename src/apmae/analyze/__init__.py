"""Analyses over an atlas: where patterns occur, and in which tasks and outcomes. Torch-free."""
