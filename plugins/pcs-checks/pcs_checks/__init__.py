"""Defining checks: one file a system."""
