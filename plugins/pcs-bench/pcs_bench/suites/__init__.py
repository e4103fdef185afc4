"""Suites: which subjects and which prompts, as data."""
