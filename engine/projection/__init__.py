"""Projects texts on directions, token by token, in one pass of a model."""
