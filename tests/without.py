"""Packages hidden from a process, as if they were not installed."""

HIDE = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            return None
        return self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def hiding(names: set[str], program: str) -> str:
    """`program`, which finds no package of these names."""
    return HIDE.format(names=names) + program
