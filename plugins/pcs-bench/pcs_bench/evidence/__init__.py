"""Evidence that systems do their job: observed on a suite, written as a file per system and backbone."""
