"""Analyses over an atlas: where patterns occur, in which tasks and outcomes. Torch-free."""
