"""Analyses over an atlas: where patterns occur, what each head does. ``locations`` is torch-free."""
