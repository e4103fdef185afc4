"""The embedded text-to-image backbone: its weights, its world, its training, its metrics."""
