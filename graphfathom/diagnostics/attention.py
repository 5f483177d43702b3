"""How evenly attention is spread over the neighbours of a node."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from graphfathom.diagnostics.observations import Observation

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import Trace

__all__ = ["attention_entropy", "attention_observations"]

Weights = tuple[Tensor, Tensor]
"""Coefficients of messages, of shape (E, heads), and the nodes that receive them."""


def attention_observations(trace: Trace) -> list[Observation]:
    r"""Entropy of the attention coefficients of every layer that has some.

    Seen are the coefficients of PyG's layers that compute them in ``edge_update``
    (GATConv, GATv2Conv) or keep them as ``_alpha`` while they pass messages
    (TransformerConv, RGATConv), if those of every node add up to 1.

    Args:
        trace: The network, which runs once.

    Returns:
        At ``"layer:k"``: ``attention.entropy``, see :func:`attention_entropy`, the
        mean over nodes and heads; ``attention.spread``, their standard deviation; and
        ``attention.learnable``, log10 of the norm of the coefficients' gradient in the
        parameters that are trained, in a random direction: ``-inf`` where training
        cannot change them. Nothing for other layers.
    """
    rows: list[Observation] = []
    with trace.running() as problem, torch.enable_grad():
        modules = dict(problem.model.named_modules())
        names = dict.fromkeys(trace.layers)
        found = {name: list(_attentions(modules, name)) for name in names}
        calls = _observed(problem.call, found)
        trained = [p for p in problem.model.parameters() if p.requires_grad]
        for k, name in enumerate(trace.layers, 1):
            share, rest = divmod(len(calls[name]), trace.layers.count(name))
            if rest or not share:
                continue
            first = share * trace.layers[: k - 1].count(name)
            seen = calls[name][first : first + share]
            rows += _measured(seen, trained, f"layer:{k}", trace.precision)
    return rows


def attention_entropy(weights: Tensor, target: Tensor) -> Tensor:
    r"""Entropy of the coefficients of each node, relative to that of equal ones.

    .. math:: -\frac{1}{\log d_v} \sum_{u \to v} \alpha_{vu} \log \alpha_{vu}

    for all nodes v with a number :math:`d_v \ge 2` of messages: 1 if they count alike,
    0 if one alone counts.

    Args:
        weights: Coefficients, of shape (E, heads), those of a node adding up to 1.
        target: The node that receives each message, of shape (E,).

    Returns:
        Entropies, of shape (nodes with two messages or more, heads).

    Example:
        >>> weights = torch.tensor([[0.5], [0.5], [1.0], [0.0], [1.0]])
        >>> attention_entropy(weights, torch.tensor([0, 0, 1, 1, 2]))
        tensor([[1.],
                [0.]])
    """
    weights = weights.detach()
    degree = torch.bincount(target)
    total = weights.new_zeros(len(degree), weights.size(1))
    total = total.index_add(0, target, torch.special.entr(weights))
    several = degree > 1
    return total[several] / degree[several].to(weights).log().unsqueeze(1)


def _attentions(modules: dict[str, nn.Module], layer: str) -> Iterator[MessagePassing]:
    """Modules at the name of a layer or below it that may have attention."""
    name = layer.removesuffix(".propagate")
    for path, module in modules.items():
        # A model that is one layer is called by the name of its class.
        whole = name not in modules and not path and type(module).__name__ == name
        inside = whole or path == name or path.startswith(f"{name}.")
        if inside and isinstance(module, MessagePassing):
            yield module


def _observed(
    call: Callable[[], Any], found: dict[str, list[MessagePassing]]
) -> dict[str, list[Weights]]:
    """Coefficients of each layer in the order of the calls."""
    calls: dict[str, list[Weights]] = {name: [] for name in found}

    def keep(name: str, weights: Any, inputs: Any) -> None:
        target = inputs[-1].get("index")
        if _is_attention(weights, target):
            calls[name].append((weights, target))

    def updated(name: str) -> Callable[..., None]:
        return lambda _, inputs, output: keep(name, output, inputs)

    def sent(name: str) -> Callable[..., None]:
        return lambda module, inputs, _: keep(
            name, getattr(module, "_alpha", None), inputs
        )

    with ExitStack() as stack:
        for name, modules in found.items():
            for module in modules:
                for handle in (
                    module.register_edge_update_forward_hook(updated(name)),
                    module.register_message_forward_hook(sent(name)),
                ):
                    stack.callback(handle.remove)
        call()
    return calls


def _is_attention(weights: Any, target: Any) -> bool:
    """Whether there is one coefficient >= 0 per message and head, adding up to 1."""
    if not isinstance(weights, Tensor) or not isinstance(target, Tensor):
        return False
    if weights.dim() != 2 or len(weights) != len(target) or not weights.numel():
        return False
    values = weights.detach()
    sums = values.new_zeros(int(target.max()) + 1, values.size(1))
    sums = sums.index_add(0, target, values)[target.unique()]
    error = torch.finfo(values.dtype).eps ** 0.5
    return bool((values >= 0).all()) and bool(((sums - 1).abs() < error).all())


def _measured(
    seen: list[Weights], trained: list[nn.Parameter], place: str, dtype: str
) -> list[Observation]:
    entropies = [attention_entropy(*pair).flatten() for pair in seen]
    entropy = torch.cat(entropies)
    if not entropy.numel():
        return []
    values = {
        "entropy": float(entropy.mean()),
        "spread": float(entropy.std(correction=0)),
    }
    rows = [
        Observation(f"attention.{name}", place, value, dtype=dtype)
        for name, value in values.items()
    ]
    learnable = _gradient_norm([weights for weights, _ in seen], trained)
    log10 = math.log10(learnable) if learnable > 0 else -math.inf
    rows.append(Observation("attention.learnable", place, log10, None, "log10", dtype))
    return rows


def _gradient_norm(weights: list[Tensor], trained: list[nn.Parameter]) -> float:
    """Norm of the gradient of a random combination of the coefficients."""
    live = [w for w in weights if w.requires_grad]
    if not live or not trained:
        return 0.0
    generator = torch.Generator().manual_seed(0)
    cotangents = [
        torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w)
        for w in live
    ]
    grads = torch.autograd.grad(
        live, trained, cotangents, retain_graph=True, allow_unused=True
    )
    return math.hypot(*(float(g.norm()) for g in grads if g is not None), 0.0)
