"""Patterns as arrays: geometry, scaling, hand-made scores. Knows nothing of language models."""
