"""What runs leave on disk: their folders, grids of them, and all that they write."""
