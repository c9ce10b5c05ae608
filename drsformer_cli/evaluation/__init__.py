"""Evaluation: which images are scored, by what, and how the scores are reported."""
