"""Find, name and tag the attention patterns of a language model's heads."""
