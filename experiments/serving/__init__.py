"""A page to try a model on, and the server that gives it its answers."""
