"""Deaths, kills, fuzzing and soaking of the command, with a verdict: see docs/reliability.md."""
