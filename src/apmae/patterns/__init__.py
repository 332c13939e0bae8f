"""Patterns as arrays: geometry, scaling, hand-made scores. Nothing here knows about language models."""
