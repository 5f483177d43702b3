"""Transforms of PyG that change the graph a network runs on."""

from graphfathom.transforms.rewiring import Rewire

__all__ = ["Rewire"]
