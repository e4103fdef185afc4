"""Features of references from frozen vision models."""
