"""Generating and scoring text with a model."""
