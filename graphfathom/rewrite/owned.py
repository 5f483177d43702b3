"""State-space form of the models of PyG, whose forward is known: one pass, no hooks."""

from __future__ import annotations

from typing import Any

import torch_geometric.nn
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute
from torch_geometric.nn.models.basic_gnn import BasicGNN

from graphfathom.nn import propagation
from graphfathom.nn.modes import is_observed
from graphfathom.rewrite.carrier import Carrier

__all__ = ["BasicForward", "is_owned", "restore", "restructure"]


def is_owned(module: nn.Module) -> bool:
    """Whether a module runs by the forward of PyG's BasicGNN and nothing else."""
    known = type(module).forward is BasicGNN.forward
    return isinstance(module, BasicGNN) and known and "forward" not in vars(module)


class BasicForward:
    """The forward of PyG's ``BasicGNN`` with a state that passes its layers.

    A normalised adjacency is built once for all layers, where they are GCN's. Layers
    before the first step are the encoder, those behind the last one the read-out; the
    jumping knowledge sees the states.

    Args:
        model: The model, whose ``forward`` this becomes.
        carrier: Makes the states.
        steps: Indices of the layers that keep the width.
    """

    def __init__(self, model: BasicGNN, carrier: Carrier, steps: range) -> None:
        self.model, self.carrier, self.steps = model, carrier, steps
        self.twins: list[int] = []

    def __call__(
        self,
        x: Tensor,
        edge_index: Any,
        edge_weight: Tensor | None = None,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        num_sampled_nodes_per_hop: list[int] | None = None,
        num_sampled_edges_per_hop: list[int] | None = None,
    ) -> Tensor:
        """As ``BasicGNN.forward``."""
        model, steps = self.model, self.steps
        trim = num_sampled_nodes_per_hop is not None
        if trim and edge_weight is not None and edge_attr is not None:
            raise NotImplementedError(
                "PyG trims either `edge_weight` or `edge_attr`, not both. Pass one."
            )
        if not trim:
            edge_index, edge_weight = self._shared(x, edge_index, edge_weight)
        xs: list[Tensor] = []
        taps = hasattr(model, "jk")
        for i in range(len(model.convs)):
            if trim:
                value = edge_weight if edge_weight is not None else edge_attr
                x, edge_index, value = model._trim(
                    i,
                    num_sampled_nodes_per_hop,
                    num_sampled_edges_per_hop,
                    x,
                    edge_index,
                    value,
                )
                if edge_weight is not None:
                    edge_weight = value
                else:
                    edge_attr = value
            if i == steps.start:
                x = self.carrier.start(x)
            inputs = (i, x, edge_index, edge_weight, edge_attr, batch, batch_size)
            if self.carrier.form.checkpoint == "none" or is_observed():
                out = self._layer(*inputs)
            else:
                out = recompute(self._layer, *inputs, use_reentrant=False)
            step = i - steps.start + 1
            x = self.carrier.advance(step, x, out) if i in steps else out
            if taps:
                xs.append(x)
        x = model.jk(xs) if taps else x
        return model.lin(x) if hasattr(model, "lin") else x

    def _shared(
        self, x: Tensor, edge_index: Any, edge_weight: Tensor | None
    ) -> tuple[Any, Tensor | None]:
        """The graph in the form that all layers share, if they do."""
        adjacency = propagation.adjacency_for(
            self.model.convs, edge_index, edge_weight, x.size(0)
        )
        return (edge_index, edge_weight) if adjacency is None else (adjacency, None)

    def _layer(
        self,
        i: int,
        x: Tensor,
        edge_index: Any,
        edge_weight: Tensor | None,
        edge_attr: Tensor | None,
        batch: Tensor | None,
        batch_size: int | None,
    ) -> Tensor:
        """Convolution, activation, normalisation and dropout of one layer."""
        model = self.model
        graph = {}
        if model.supports_edge_weight:
            graph["edge_weight"] = edge_weight
        if model.supports_edge_attr:
            graph["edge_attr"] = edge_attr
        x = model.convs[i](x, edge_index, **graph)
        if i == model.num_layers - 1 and model.jk_mode is None:
            return x
        if model.act is not None and model.act_first:
            x = model.act(x)
        norm = model.norms[i]
        x = norm(x, batch, batch_size) if model.supports_norm_batch else norm(x)
        if model.act is not None and not model.act_first:
            x = model.act(x)
        return model.dropout(x)


def restructure(model: BasicGNN, carrier: Carrier, steps: range) -> None:
    """Give a model the forward with states, and layers that share an adjacency."""
    forward = BasicForward(model, carrier, steps)
    twins = [propagation.shared(conv) for conv in model.convs]
    if all(isinstance(twin, propagation.GCNConv) for twin in twins):
        for i, twin in enumerate(twins):
            if twin is not model.convs[i]:
                model.convs[i] = twin
                forward.twins.append(i)
    model.forward = forward


def restore(model: nn.Module) -> None:
    """Undo :func:`restructure` wherever it was done in a network."""
    for module in list(model.modules()):
        forward = vars(module).get("forward")
        if isinstance(forward, BasicForward):
            del module.forward
            for i in forward.twins:
                # The twin differs from PyG's layer in its class alone.
                object.__setattr__(
                    forward.model.convs[i], "__class__", torch_geometric.nn.GCNConv
                )
