"""Runs: cells of system, subject, prompt and seed, cached by content and resumed after a kill."""
