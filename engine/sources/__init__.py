"""Where texts of others come from: files, folders and the hub. Knows nothing of models."""
