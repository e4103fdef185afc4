"""Recipes: one TOML a system, no code."""
