"""Transforms of PyG that change or extend the graph a network runs on."""

from graphfathom.transforms.rewiring import Rewire
from graphfathom.transforms.shell_preview import ShellPreview
from graphfathom.transforms.shells import KHopShells

__all__ = ["KHopShells", "Rewire", "ShellPreview"]
