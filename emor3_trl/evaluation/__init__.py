"""Evaluation: predictions of a checkpoint, metrics of predictions, and the report that compares models."""
