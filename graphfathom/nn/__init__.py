"""Graph networks as torch modules; imports torch and PyG only."""

from graphfathom.nn import zoo

__all__ = ["zoo"]
