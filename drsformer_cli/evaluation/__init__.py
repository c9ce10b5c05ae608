"""Evaluation: find the images, restore and score them, and report the scores."""
