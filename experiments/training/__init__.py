"""From a recipe, a model and data to what trains it, and the loop that does."""
