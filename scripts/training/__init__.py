"""Training side by side with diffusers' own scripts: what ``scripts/bench_training.py`` runs."""
