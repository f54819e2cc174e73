"""Foretells what reading a corpus with a model will take, before a weight is read."""
