"""The whole world of the embedded backbone, as one archive."""
