"""A model with its data and its loss: what every verb starts from."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphfathom.validation import (
    as_labels,
    attribute,
    attribute_names,
    check_devices,
    check_graph,
    check_labels,
    check_placement,
    edge_indices,
    leaf_tensors,
)

__all__ = ["Problem", "unwrap_model"]

MODES = ("auto", "init", "eval")


def unwrap_model(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile`` and ``DistributedDataParallel`` wrappers."""
    while True:
        if isinstance(model, torch._dynamo.eval_frame.OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        else:
            return model


class Problem:
    r"""A model bound to data and a loss.

    The parameters of ``model.forward`` are bound to the attributes of the data by
    name, e.g. ``forward(x, edge_index, edge_weight=None)`` receives ``data.x``,
    ``data.edge_index`` and, if there, ``data.edge_weight``. Where no loss is given it
    is inferred from the labels: cross-entropy for integers (negative log-likelihood
    if the rows of the output are log-probabilities), binary cross-entropy for
    multi-hot floats, mean squared error otherwise. Everything guessed is said in
    :attr:`notes`.

    Args:
        model: Any module that calls message-passing layers. Wrappers of
            ``torch.compile`` and ``DistributedDataParallel`` are taken off.
        data: A PyG ``Data``, ``Batch`` or ``HeteroData``, a loader (its first batch is
            taken), or a pair ``(args, kwargs)`` for the call of the model.
        forward_fn: ``forward_fn(model, data)`` returns the output tensor, for models
            whose call cannot be bound by name.
        loss: ``loss(output, target)`` on the rows selected by ``mask``, a scalar.
        target: Labels, or the name of an attribute of the data. Default: ``"y"``.
        mask: Rows that enter the loss, or the name of an attribute of the data.
            Default: ``"train_mask"`` where there is one, else all labelled rows.
        mode: ``"init"`` judges normalisation layers by batch statistics with dropout
            off, ``"eval"`` judges the model as ``model.eval()`` would, ``"auto"``
            takes ``"init"`` where a normalisation layer has never seen a batch.

    Raises:
        TypeError: If an argument is of the wrong kind or a parameter of ``forward``
            finds no attribute.
        ValueError: If the graph, the features, the labels or the mask cannot be used.

    Example:
        >>> from torch_geometric.data import Data
        >>> from torch_geometric.nn import GCN
        >>> edge_index = torch.tensor([[0, 1], [1, 0]])
        >>> data = Data(x=torch.eye(2), edge_index=edge_index, y=torch.tensor([0, 1]))
        >>> Problem(GCN(2, 4, num_layers=2, out_channels=2), data)
        Problem(GCN, 2 nodes, 2 edges, loss=cross-entropy, mode=auto)
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        forward_fn: Callable[[nn.Module, Any], Tensor] | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        target: Tensor | str | None = None,
        mask: Tensor | str | None = None,
        mode: str = "auto",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"`model` must be a torch.nn.Module. Got {type(model).__name__}: "
                "pass an instance, not a class or a function."
            )
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {', '.join(MODES)}. Got {mode!r}.")
        self.model = unwrap_model(model)
        self.notes: list[str] = []
        self.data = self._first_batch(data)
        self.forward_fn = forward_fn
        self.loss = loss
        self.mode = mode
        self.is_call = isinstance(self.data, tuple)
        check_devices(self.model, self.data)
        check_graph(self.data)
        self.target = as_labels(self._find(target, "y", "target"))
        if loss is not None and self.target is None:
            raise ValueError(
                "`loss` needs labels, and the data has no `y`: pass `target=`, a "
                "tensor or the name of an attribute."
            )
        self.mask = self._select_rows(mask)
        self._loss_name = getattr(loss, "__name__", type(loss).__name__) if loss else ""
        self._binding = None if forward_fn or self.is_call else self._bind()
        check_placement(self.model, self.data)

    def __repr__(self) -> str:
        sizes = f"{sum(self.num_nodes)} nodes, {self.num_edges} edges"
        loss = self._loss_name or ("none" if self.target is None else self._guess()[0])
        name = type(self.model).__name__
        return f"Problem({name}, {sizes}, loss={loss}, mode={self.mode})"

    @property
    def num_nodes(self) -> tuple[int, ...]:
        """Number of nodes of each node type; one entry for homogeneous graphs."""
        if self.is_call:
            tensors = leaf_tensors(self.data)
            rows = [t.size(0) for t in tensors if t.is_floating_point() and t.dim() > 1]
            return (rows[0],) if rows else (0,)
        if hasattr(self.data, "node_types"):
            return tuple(self.data[kind].num_nodes for kind in self.data.node_types)
        return (int(self.data.num_nodes or 0),)

    @property
    def num_edges(self) -> int:
        """Columns of ``edge_index``, over all edge types."""
        return sum(index.size(1) for index in self.edge_indices)

    @property
    def edge_indices(self) -> list[Tensor]:
        """The integer tensors of shape (2, E) of the data."""
        return edge_indices(self.data)

    @property
    def edge_index(self) -> Tensor | None:
        """The edge index between the nodes, or None if there is not exactly one."""
        return self.edge_indices[0] if len(self.edge_indices) == 1 else None

    @property
    def argument_names(self) -> list[str]:
        """Attributes of the data that the model may read."""
        bound = [source for source in (self._binding or {}).values() if source]
        return bound or [str(key) for key in self.data.keys()]  # noqa: SIM118

    def tensors(self) -> list[Tensor]:
        """All tensors of the data."""
        return leaf_tensors(self.data)

    def replace(self, model: nn.Module, data: Any) -> Problem:
        """The same problem on another model and data of the same layout."""
        other = copy.copy(self)
        other.model, other.data = model, data
        return other

    def run(self) -> Tensor:
        """Call the model on the data.

        Raises:
            TypeError: If the model returns anything but one tensor.
        """
        return self.only_tensor(self.call())

    def call(self) -> Any:
        """Whatever the model returns."""
        if self.forward_fn is not None:
            return self.forward_fn(self.model, self.data)
        if self.is_call:
            args, kwargs = self.data
            return self.model(*args, **kwargs)
        return self.model(**self._arguments())

    def only_tensor(self, output: Any) -> Tensor:
        """Refuse what is not one tensor."""
        if isinstance(output, Tensor):
            return output
        kind = type(output).__name__
        inside, pick = "", "[0]"
        if isinstance(output, Mapping):
            inside, pick = f" with keys {', '.join(map(str, output))}", "[key]"
        elif isinstance(output, tuple | list):
            inside = f" of {len(output)} items"
        raise TypeError(
            f"The model must return one tensor. {type(self.model).__name__} returned a "
            f"{kind}{inside}: pass `forward_fn=lambda model, data: model(...){pick}`."
        )

    def loss_of(self, output: Tensor) -> Tensor | None:
        """The scalar loss of an output, or None if there are no labels.

        Raises:
            ValueError: If output and labels do not fit together.
        """
        if self.target is None:
            return None
        target = self.target
        if target.is_floating_point():
            target = target.to(output.dtype)
        function = self.loss or self._guess(output)[1]
        if target.size(0) != output.size(0):
            raise ValueError(
                f"The output has {output.size(0)} rows and the target "
                f"{target.size(0)}: pass `target=` with one row for each row of the "
                "output."
            )
        if self.mask is not None and self.mask.size(0) != output.size(0):
            raise ValueError(
                f"`mask` has {self.mask.size(0)} rows and the output {output.size(0)}: "
                "pass `mask=` with one entry for each row of the output."
            )
        if self.mask is not None:
            output, target = output[self.mask], target[self.mask]
        if self.loss is None:
            check_labels(output, target)
        value = function(output, target)
        if value.dim() != 0:
            raise ValueError(
                f"`loss` must return a scalar. Got shape {tuple(value.shape)}: "
                "average or sum it."
            )
        return value

    def describe_loss(self, output: Tensor) -> str:
        """Name of the loss that an output is judged by."""
        if self.target is None:
            return "none (no labels)"
        return self._loss_name or self._guess(output)[0]

    @property
    def num_classes(self) -> int | None:
        """Number of classes of integer labels, else None."""
        if self.target is None or self.target.is_floating_point():
            return None
        return int(self.target.max()) + 1 if self.target.numel() else 0

    def _guess(
        self, output: Tensor | None = None
    ) -> tuple[str, Callable[[Tensor, Tensor], Tensor]]:
        target = self.target
        if target is None:
            return "none", F.mse_loss
        if not target.is_floating_point():
            if output is not None and (output.dim() == 1 or output.size(-1) == 1):
                return "binary cross-entropy with logits", _binary_loss
            if output is not None and _is_log_probability(output):
                return "negative log-likelihood", _nll_loss
            return "cross-entropy", _cross_entropy
        if target.dim() > 1 and bool(((target == 0) | (target == 1)).all()):
            return "binary cross-entropy with logits", _binary_loss
        return "mean squared error", _mean_squared_error

    def _first_batch(self, data: Any) -> Any:
        is_call = isinstance(data, tuple) and len(data) == 2
        is_call = is_call and isinstance(data[0], tuple | list)
        if hasattr(data, "stores") or (is_call and isinstance(data[1], dict)):
            return data
        if isinstance(data, Iterable) and not isinstance(data, Tensor | str | Mapping):
            batch = next(iter(data), None)
            if batch is None:
                raise ValueError("`data` is a loader without a batch. Pass one graph.")
            if hasattr(batch, "stores"):
                self.notes.append("Measured on the first batch of the loader.")
                return batch
        raise TypeError(
            "`data` must be a PyG Data, Batch or HeteroData, a loader of these, or a "
            f"pair (args, kwargs). Got {type(data).__name__}."
        )

    def _find(
        self, value: Tensor | str | None, default: str, argument: str
    ) -> Tensor | None:
        found: Any = value
        if not isinstance(value, Tensor):
            found = None if self.is_call else attribute(self.data, value or default)
        if isinstance(found, dict):  # one entry per node type
            found = next(iter(found.values())) if len(found) == 1 else None
        if found is None and value is not None:
            raise ValueError(
                f"`{argument}` must name an attribute of the data. Got {value!r}; the "
                f"data has {attribute_names(self.data)}."
            )
        if found is not None and found.dim() > 1 and not found.is_floating_point():
            found = found.squeeze(-1)
        return found

    def _select_rows(self, mask: Tensor | str | None) -> Tensor | None:
        found = self._find(mask, "train_mask", "mask")
        if found is not None and found.dim() == 2:
            self.notes.append(f"Used the first of {found.size(1)} splits of the mask.")
            found = found[:, 0]
        if found is not None and found.dtype not in (torch.bool, torch.uint8):
            raise TypeError(
                f"`mask` must be a boolean tensor with one entry per row. Got "
                f"{found.dtype}: set the wanted rows of a tensor of False to True."
            )
        found = None if found is None else found.bool()
        if found is not None and not bool(found.any()):
            raise ValueError(
                "`mask` selects no row: the loss would be empty. "
                "Pass a mask with at least one True."
            )
        if found is None and self.target is not None:
            target = self.target
            missing = target.isnan() if target.is_floating_point() else target < 0
            missing = missing.flatten(1).any(1) if missing.dim() > 1 else missing
            found = ~missing
            if bool(missing.all()):
                raise ValueError(
                    "No row of the target is labelled (all are NaN or negative). "
                    "Pass `target=` with labels or remove `y`."
                )
            self.notes.append(
                f"No train_mask: the loss uses all {int(found.sum())} labelled rows."
            )
        return found

    def _bind(self) -> dict[str, str]:
        """Parameter of forward -> attribute of the data, empty for the data itself."""
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        signature = inspect.signature(self.model.forward)
        parameters = [p for p in signature.parameters.values() if p.kind not in kinds]
        binding = {
            p.name: p.name
            for p in parameters
            if attribute(self.data, p.name) is not None
        }
        missing = [
            p.name for p in parameters if p.default is p.empty and p.name not in binding
        ]
        if len(missing) == 1 and not binding:
            self.notes.append(f"`{missing[0]}` of forward receives the data object.")
            return {missing[0]: ""}
        if missing or not parameters:
            needs = ", ".join(missing) or "arguments without names"
            raise TypeError(
                f"`{type(self.model).__name__}.forward` needs {needs}, which the data "
                f"does not have (it has {attribute_names(self.data)}): pass "
                "`forward_fn=lambda model, data: model(...)`."
            )
        return binding

    def _arguments(self) -> dict[str, Any]:
        return {
            name: attribute(self.data, source) if source else self.data
            for name, source in (self._binding or {}).items()
        }


def _is_log_probability(output: Tensor) -> bool:
    sums = output.detach().double().exp().sum(dim=-1)
    return bool((output <= 0).all()) and bool(((sums - 1).abs() < 1e-4).all())


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target)


def _nll_loss(output: Tensor, target: Tensor) -> Tensor:
    return F.nll_loss(output, target)


def _binary_loss(output: Tensor, target: Tensor) -> Tensor:
    target = target.to(output.dtype).view_as(output)
    return F.binary_cross_entropy_with_logits(output, target)


def _mean_squared_error(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output, target.to(output.dtype).view_as(output))
