"""Networks to compare with: is it the depth, the graph, or the data?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import MLP

from graphfathom.diagnostics.sandbox import Sandbox, copy_model
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.problem import Problem
from graphfathom.validation import map_tensors

__all__ = ["copy_of", "mlp", "output_of", "shallow", "unfrozen"]


def output_of(problem: Problem) -> Tensor:
    """The output in the caller's precision, in eval mode, on a copy."""
    box = Sandbox(problem, "eval")
    with box.running() as safe, torch.no_grad():
        return safe.run()


def copy_of(problem: Problem) -> Problem:
    """The problem on a copy of its model and data, which may be trained."""
    data = map_tensors(problem.data, lambda tensor: tensor.detach().clone())
    return problem.replace(copy_model(problem.model), data)


def unfrozen(problem: Problem) -> Problem | None:
    """A copy that trains all its weights; None if it does already, or trains none.

    Modules with frozen weights of their own start anew.
    """
    trained = [p.requires_grad for p in problem.model.parameters()]
    if all(trained) or not any(trained):
        return None
    free = copy_of(problem)
    for module in free.model.modules():
        if not all(p.requires_grad for p in module.parameters(recurse=False)):
            getattr(module, "reset_parameters", lambda: None)()
    free.model.requires_grad_(True)
    return free


def shallow(problem: Problem, trace: Trace) -> Problem | None:
    """A copy of the network that keeps one repeated layer, or two."""
    for keep in ([0], [0, -1]):
        if len(keep) >= trace.num_layers:
            continue
        try:
            short = copy_of(problem)
            _truncate(short.model, trace, keep)
            same = output_of(short).shape == trace.output.shape
            kept = capture(short).num_layers if same else trace.num_layers
        except Exception:  # whatever a stranger's model raises once truncated
            continue
        if kept <= len(keep):
            return short
    return None


def _truncate(model: nn.Module, trace: Trace, keep: list[int]) -> None:
    """Keep some entries of every list of modules that is as long as the network."""
    depth = trace.num_layers
    parents = {name.rpartition(".")[0].split(".")[0] for name in trace.layers}
    sizes = {
        len(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.split(".")[0] in parents
    }
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, nn.ModuleList) and len(child) in sizes | {depth}:
                setattr(owner, name, nn.ModuleList([child[i] for i in keep]))
        if getattr(owner, "num_layers", None) == depth:
            owner.__dict__["num_layers"] = len(keep)


def mlp(problem: Problem, trace: Trace, seed: int) -> Problem | None:
    """Two dense layers on the same features, for outputs with one row per node."""
    x = None if problem.is_call else problem.data.get("x")
    if not isinstance(x, Tensor) or x.dim() != 2 or not x.is_floating_point():
        return None
    if trace.output.dim() != 2 or trace.output.size(0) != x.size(0):
        return None
    hidden = trace.states[trace.num_layers // 2].main.size(-1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MLP([x.size(1), hidden, trace.output.size(1)], norm=None)
    model = model.to(x.device, next(problem.model.parameters()).dtype)
    return Problem(
        model, problem.data, None, problem.loss, problem.target, problem.mask, "eval"
    )
