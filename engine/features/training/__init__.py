"""Training an SAE on what a reader makes of its corpus."""
