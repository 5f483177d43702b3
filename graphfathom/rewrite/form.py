"""A network in state-space form: the same layers around a state that is kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from torch import Tensor, nn

from graphfathom.diagnostics.sandbox import copy_model
from graphfathom.nn.abstract_state_space import AbstractStateSpace, as_transition
from graphfathom.nn.step import advance
from graphfathom.nn.transition import Scalar, Transition
from graphfathom.rewrite.carrier import Carrier, Route
from graphfathom.rewrite.owned import restore
from graphfathom.rewrite.points import remove_hooks

__all__ = ["RewriteError", "StateSpaceModel", "unwrap"]

FORMS = ("structural", "block", "boundary")


class RewriteError(ValueError):
    """A network that has no state-space form; the message says why and what to do."""


class _Forward:
    """The forward of the network inside, with its signature."""

    def __init__(self, form: StateSpaceModel) -> None:
        self.form = form

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.form.layer.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.form.layer(*args, **kwargs)


class StateSpaceModel(AbstractStateSpace):
    r"""A network whose layers pass on a state.

    .. math:: H_{k+1} = H_k \Lambda^\top + F_k(H_k) B^\top, \qquad k = 0, \dots, L - 1

    :math:`F_k` is everything between two states: convolution, activation,
    normalisation and dropout. What comes before :math:`H_0` is the encoder and what
    comes behind :math:`H_L` the read-out. Made by
    :func:`~graphfathom.rewrite.to_state_space`; parameters, keys of ``state_dict`` and
    arguments of the call are those of the network.

    Attributes:
        state: The matrix :math:`\Lambda` of all layers.
        input: The matrix :math:`B` of all layers.
        layer: The network, whose attributes are also those of this module.
        form: How the state is put in: ``"structural"`` (by a forward of our own),
            ``"block"`` (behind modules that map a state to the next one) or
            ``"boundary"`` (at the inputs of the layers).
        step_names: Name of the layer of each step.
        carries: Whether the layers add to their input by themselves (``x + f(x)``).
            Then :math:`\Lambda = (1 - \gamma) I, B = \gamma I` and the step is
            ``x + gamma * f(x)``.
    """

    network_name: ClassVar[str] = "layer"
    """A diagnosis must not take this module for a layer, whatever its class is called:
    it is the whole network."""
    persistent = None
    gates = None

    def __init__(
        self,
        model: nn.Module,
        state: Transition,
        input: Transition,
        form: str,
        step_names: tuple[str, ...],
        route: Route = (),
        *,
        carries: bool = False,
    ) -> None:
        super().__init__(model, {"state": state, "input": input})
        self.form = form
        self.step_names = step_names
        self.carries = carries
        self.checkpoint = "none"
        self.calibration: Any = None
        self.carrier = Carrier(self, route)
        self.forward = _Forward(self)
        self._check_step()

    @property
    def num_steps(self) -> int:
        """Number of steps L."""
        return len(self.step_names)

    @property
    def title(self) -> str:
        """Name of the class of the network."""
        return type(self.layer).__name__

    def set_transitions(
        self,
        state: Transition | None = None,
        input: Transition | None = None,
    ) -> None:
        """Take other matrices for all layers.

        Raises:
            TypeError: If one is no Transition.
            ValueError: If one is made for another width.
            RewriteError: If the network carries its state by itself and the pair is
                not (1 - gamma) I, gamma I.
        """
        before = self.state, self.input
        new = (state or before[0], input or before[1])
        for name, part in zip(("state", "input"), new, strict=True):
            as_transition(name, part)
            if before[0].channels != -1:
                part.bind(before[0].channels, next(self.layer.parameters(), None))
        self.state, self.input = new
        try:
            self._check_step()
        except RewriteError:
            self.state, self.input = before
            raise

    def advance(self, state: Tensor, message: Tensor) -> Tensor:
        """The next state, of a state and a message of its shape.

        Raises:
            RewriteError: If the shapes differ, or the layers carry the state and the
                matrices are no longer a pair that scales their step.
        """
        if message.shape != state.shape:
            raise RewriteError(
                f"A layer of {self.title} must keep the shape of the state, "
                f"{tuple(state.shape)}. It returned {tuple(message.shape)}: rewrite "
                "the network again on such data, by to_state_space."
            )
        if self.carries:
            self._check_step()
        return advance(state, message, self.state, self.input)

    def watch(self) -> AbstractContextManager[list[Tensor]]:
        """Collect the states of a run.

        Returns:
            A context whose value is a list: after each run inside of it, the states
            0 to L of that run, part of its autograd graph. State 0 requires a gradient
            even if nothing before it does.

        Example:
            >>> from graphfathom import Problem
            >>> from graphfathom.nn.transition import Scalar
            >>> from graphfathom.rewrite import to_state_space
            >>> from torch_geometric.data import Data
            >>> from torch_geometric.nn import GCN
            >>> data = Data(x=torch.eye(2), edge_index=torch.tensor([[0, 1], [1, 0]]))
            >>> problem = Problem(GCN(2, 4, num_layers=4, out_channels=2), data)
            >>> form = to_state_space(
            ...     problem.model, problem, state=Scalar(1.0), input=Scalar(0.5)
            ... )
            >>> with form.watch() as states:
            ...     out = form(data.x, data.edge_index)
            >>> [tuple(state.shape) for state in states]
            [(2, 4), (2, 4), (2, 4)]
        """
        return self.carrier.watch()

    def segment(
        self, i: int, j: int, call: Callable[[], Any]
    ) -> Callable[[Tensor], Tensor]:
        """The map from state i to state j as a function of one tensor.

        Each evaluation runs ``call``, puts its argument in as state i and stops at
        state j; use it with ``torch.func`` or ``torch.autograd``.

        Args:
            i: Index of the state that is put in.
            j: Index of the state that is returned, at least i.
            call: Runs this network, e.g. ``problem.replace(form, data).run``.

        Raises:
            ValueError: If i and j are no states in this order.
        """
        if not 0 <= i <= j <= self.num_steps:
            raise ValueError(
                f"`i` and `j` must satisfy 0 <= i <= j <= {self.num_steps}, the "
                f"states. Got i = {i}, j = {j}."
            )
        return self.carrier.segment(i, j, call)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "layer":
                raise
            return getattr(self.layer, name)

    def __getitem__(self, key: Any) -> Any:
        return self.layer[key]  # pyright: ignore[reportIndexIssue]

    def named_parameters(
        self, *args: Any, **kwargs: Any
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters by their names in the network."""
        prefix = kwargs.get("prefix", args[0] if args else "")
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield _inner_name(name, prefix), parameter

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        """The buffers by their names in the network."""
        prefix = kwargs.get("prefix", args[0] if args else "")
        for name, buffer in super().named_buffers(*args, **kwargs):
            yield _inner_name(name, prefix), buffer

    def extra_repr(self) -> str:
        """The form and the number of steps."""
        return f"form={self.form}, num_steps={self.num_steps}"

    def _check_step(self) -> None:
        """Layers that carry the state admit a scaled step only."""
        if not self.carries:
            return
        pair = self.state, self.input
        plain = all(type(part) is Scalar and not part.trainable for part in pair)
        if not plain or abs(self.state.scale + self.input.scale - 1) > 1e-6:
            raise RewriteError(
                f"{self.title} already carries a state: its layers add to their input "
                "(`x + f(x)`), so that only the step can be scaled. Take "
                "`state=Scalar(1 - gamma), input=Scalar(gamma)`, which gives "
                f"`x + gamma * f(x)`. Got {self.state} and {self.input}."
            )


def _inner_name(name: str, prefix: str) -> str:
    """Name in the network of a tensor in the form."""
    start = f"{prefix}." if prefix else ""
    own = f"{start}layer."
    return start + name.removeprefix(own) if name.startswith(own) else name


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside a state-space form, as it was, with its present parameters.

    Args:
        model: What :func:`~graphfathom.rewrite.to_state_space` returned; it is not
            changed.

    Returns:
        A copy of the class that the network had before it was rewritten.

    Raises:
        TypeError: If the model is not in state-space form.
    """
    if not isinstance(model, StateSpaceModel):
        raise TypeError(
            "`model` must be the result of to_state_space. Got "
            f"{type(model).__name__}, which has nothing to unwrap."
        )
    inside = copy_model(model).layer
    assert isinstance(inside, nn.Module)  # for the type checker
    remove_hooks(inside)
    restore(inside)
    return inside
