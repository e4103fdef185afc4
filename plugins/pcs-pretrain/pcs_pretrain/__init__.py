"""The data side of pre-training."""
