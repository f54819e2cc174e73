"""Sparse autoencoders beside a reader: what they say of themselves, their codes, their training."""
