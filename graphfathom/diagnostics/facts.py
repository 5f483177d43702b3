"""What is known of the data and of the outputs before any layer is looked at."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order
from torch import Tensor

from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.recorder import sources_of
from graphfathom.diagnostics.structure import GraphStructure
from graphfathom.problem import Problem

__all__ = [
    "accuracy_observations",
    "data_observations",
    "diameter_bound",
    "graph_structure",
    "loss_observations",
]


def graph_structure(problem: Problem) -> GraphStructure | None:
    """The graph between the nodes, or None where there is not exactly one.

    A dense adjacency matrix among the data is read as one.
    """
    num_nodes = sum(problem.num_nodes)
    edge_index, edge_weight = problem.edge_index, None
    if edge_index is None and problem.num_edges == 0 and len(problem.num_nodes) == 1:
        edge_index = _dense_edges(problem, num_nodes)
    if edge_index is None or len(problem.num_nodes) != 1:
        return None
    if not problem.is_call and "edge_weight" in problem.data:
        weight = problem.data.edge_weight
        usable = isinstance(weight, Tensor) and weight.numel() == edge_index.size(1)
        edge_weight = weight.view(-1) if usable and bool((weight >= 0).all()) else None
    return GraphStructure.from_edge_index(edge_index, num_nodes, edge_weight)


def _dense_edges(problem: Problem, num_nodes: int) -> Tensor | None:
    """Non-zero entries of the one square matrix among the data."""
    found = [
        tensor
        for tensor in problem.tensors()
        if tensor.dim() == 2 and tensor.shape == (num_nodes, num_nodes)
    ]
    if len(found) != 1:
        return None
    matrix = found[0] if found[0].layout == torch.strided else found[0].to_dense()
    return matrix.nonzero().t().contiguous()


def diameter_bound(structure: GraphStructure) -> int:
    """A lower bound of the diameter of the largest component, by a double sweep.

    The farthest node from the farthest node of an arbitrary one: exact on trees.
    """
    n = structure.num_nodes
    ends = (structure.source.cpu().numpy(), structure.target.cpu().numpy())
    adjacency = coo_array(([1] * len(ends[0]), ends), shape=(n, n)).tocsr()
    largest = structure.component.mode().values
    start = int((structure.component == largest).nonzero()[0])
    depth = 0
    for _ in range(2):
        order, parent = breadth_first_order(adjacency, start, directed=False)
        distance = [0] * n
        for node in order[1:]:
            distance[node] = distance[parent[node]] + 1
        start = int(order[-1])
        depth = distance[start]
    return depth


def data_observations(
    problem: Problem, structure: GraphStructure | None
) -> list[Observation]:
    """Sizes of the graph, variety of features and labels, a bound of the diameter."""
    facts: dict[str, float] = {
        "data.nodes": sum(problem.num_nodes),
        "data.edges": problem.num_edges,
    }
    if structure is not None:
        facts["data.edges"] = max(problem.num_edges, len(structure.source))
        facts["data.components"] = structure.num_components
        facts["data.diameter"] = diameter_bound(structure)
    features = sources_of(problem)
    x = None if problem.is_call else problem.data.get("x")
    if not features and isinstance(x, Tensor):  # categories, to be embedded
        features = [x]
    if features:
        varying = [
            int((f != f[:1]).flatten(1).any(0).sum()) for f in map(_rows, features)
        ]
        facts["features.varying"] = sum(varying)
    labels = _selected(problem.target, problem.mask)
    if labels is not None and labels.numel():
        facts["labels.distinct"] = len(labels.unique(dim=0))
    return [Observation(name, "model", float(value)) for name, value in facts.items()]


def _rows(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(tensor.size(0), -1)


def _selected(target: Tensor | None, mask: Tensor | None) -> Tensor | None:
    if target is None or mask is None or mask.size(0) != target.size(0):
        return target
    return target[mask]


def loss_observations(
    problem: Problem,
    output: Tensor,
    run: str = "model",
    structure: GraphStructure | None = None,
) -> list[Observation]:
    """Loss of an output, and of the best constant where the loss is one we know.

    With the graph also of the best constants that may differ between its components,
    ``loss.constant.component``, if the rows of the output are the nodes.
    """
    with torch.no_grad():
        loss = problem.loss_of(output)
        if loss is None:
            return []
        rows = [Observation("loss", "model", float(loss), run=run)]
        if run != "model":
            return rows
        parts = {"loss.constant": output.new_zeros(len(output), dtype=torch.long)}
        if structure is not None and structure.num_nodes == len(output):
            parts["loss.constant.component"] = structure.component
        for name, part in parts.items():
            constants = _best_constants(problem, output, part)
            if constants is not None:
                best = problem.loss_of(constants)
                assert best is not None
                rows.append(Observation(name, "model", float(best)))
    return rows


def _best_constants(problem: Problem, output: Tensor, part: Tensor) -> Tensor | None:
    """Rows that are constant on each part of the nodes and have the smallest loss.

    Parts without a labelled row in the mask get a row that does not matter.
    """
    target = problem.target
    labels = _selected(target, problem.mask)
    if problem.loss is not None or target is None or labels is None:
        return None
    if output.dim() != 2 or not labels.numel() or len(target) != len(output):
        return None
    chosen = part if len(labels) == len(part) else part[problem.mask]
    counts = torch.bincount(chosen, minlength=int(part.max()) + 1)
    if labels.is_floating_point() or output.size(1) == 1:
        values = labels.reshape(len(labels), -1).double()
    else:
        values = F.one_hot(labels.flatten(), output.size(1)).double()
    sums = values.new_zeros(len(counts), values.size(1)).index_add(0, chosen, values)
    means = (sums / counts.clamp_min(1).unsqueeze(1))[part]
    if "logits" in problem.describe_loss(output):
        return means.clamp(1e-12, 1 - 1e-12).logit()
    if labels.is_floating_point():
        return means
    # A class that does not occur gets a share too small to matter, not log(0).
    return means.clamp_min(1e-300).log()


def accuracy_observations(
    problem: Problem, output: Tensor, run: str = "model"
) -> list[Observation]:
    """Share of right classes on the train, validation and test masks of the data."""
    target = problem.target
    is_classes = target is not None and not target.is_floating_point()
    if not is_classes or output.dim() != 2 or output.size(1) < 2:
        return []
    assert target is not None
    right = output.argmax(dim=1) == target.flatten()
    rows = []
    for split in ("train", "val", "test"):
        mask = None if problem.is_call else problem.data.get(f"{split}_mask")
        if not isinstance(mask, Tensor) or mask.size(0) != right.numel():
            continue
        mask = (mask[:, 0] if mask.dim() == 2 else mask).bool()
        if bool(mask.any()):
            value = float(right[mask].double().mean())
            name = f"accuracy.{split}"
            rows.append(Observation(name, "model", value, unit="share", run=run))
    if rows and run == "model":
        mask = next(
            m for m in (problem.data.get("test_mask"), problem.mask) if m is not None
        )
        mask = (mask[:, 0] if mask.dim() == 2 else mask).bool()
        seen = torch.bincount(target.flatten()[mask].clamp_min(0))
        majority = float(seen.max() / seen.sum()) if len(seen) else math.nan
        rows.append(Observation("accuracy.majority", "model", majority, unit="share"))
    return rows
