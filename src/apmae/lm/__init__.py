"""The language model under study: the only room that imports transformers."""
