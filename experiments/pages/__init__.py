"""Runs for people: pictures, the table of predictions, one HTML page."""
