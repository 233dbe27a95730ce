"""Trained models in use: what a photograph shows, photographs enlarged."""
