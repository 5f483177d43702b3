"""Hand the state of a network from layer to layer while its forward runs.

Glossary:
    state: the tensor H_k, for k = 0 (behind the encoder) to L (before the read-out).
    message: F_k(H_k), what the network's own layer makes of a state.
    point: a place of the forward where a state is put in for a message.
    run: one call of the module around all points.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from graphfathom.rewrite.form import StateSpaceModel

__all__ = ["Carrier", "Route", "StepError"]

Route = tuple[str, ...]
"""Names of the modules at the points, in the order in which a run passes them."""


class StepError(RuntimeError):
    """A layer was called when it was not its turn; the message says which."""


class _Reached(Exception):
    """Ends a run at the state that was asked for."""


class Carrier:
    """What the points of one rewritten network share.

    Args:
        form: The rewritten network, which holds the two matrices.
        route: Names of the modules at the points.
    """

    def __init__(self, form: StateSpaceModel, route: Route) -> None:
        self.form = form
        self.route = route
        self.observers: list[Callable[[int, Tensor], Tensor]] = []
        self.position = -1
        self.held: Tensor | None = None
        self.version = 0
        self.thread = 0

    # Plain attributes and integers: torch.compile traces through all of this.

    def visit(self, k: int, state: Tensor) -> Tensor:
        """Show state k to those who watch; they may put in another."""
        for observer in self.observers:
            state = observer(k, state)
        return state

    def start(self, state: Tensor) -> Tensor:
        """State 0, which autocast must not leave in half precision."""
        if torch.is_autocast_enabled(state.device.type):
            state = state.to(torch.promote_types(state.dtype, torch.float32))
        return self.visit(0, state)

    def advance(self, k: int, state: Tensor, message: Tensor) -> Tensor:
        """State k, of the state before it and the message."""
        return self.visit(k, self.form.advance(state, message))

    def begin(self) -> None:
        """Open a run.

        Raises:
            StepError: If another one is open.
        """
        if self.position >= 0:
            raise StepError(
                f"{self.form.title} was called while it runs, by another thread or by "
                "itself: its states would mix. Give each thread its own copy "
                "(copy.deepcopy)."
            )
        self.position = 0
        if not torch.compiler.is_compiling():
            self.thread = threading.get_ident()

    def end(self, completed: bool) -> None:
        """Close the run.

        Raises:
            StepError: If not all points were passed.
        """
        if not self.is_mine():
            return  # it failed to begin, while another thread's run goes on
        passed, self.position, self.held = self.position, -1, None
        if completed and passed != len(self.route):
            raise StepError(
                f"The forward of {self.form.title} ended after {passed} of "
                f"{len(self.route)} states: `{self.route[passed]}` was not called. A "
                "network in state-space form calls the same layers every time."
            )

    def is_mine(self) -> bool:
        """Whether the run is this thread's; compiled code cannot ask."""
        return torch.compiler.is_compiling() or self.thread == threading.get_ident()

    def due(self, name: str) -> int:
        """The position at which a module is called.

        Raises:
            StepError: If it is not its turn.
        """
        if self.position < 0 or not self.is_mine():
            raise StepError(
                f"`{name}` of {self.form.title} was called outside of its forward, "
                "where it has no state: by itself, by another thread, or to be "
                "recomputed by torch.utils.checkpoint. Call the whole model, and take "
                "checkpoints out of its forward or around all of its layers."
            )
        position = self.position
        expected = self.route[position] if position < len(self.route) else "no layer"
        if expected != name:
            raise StepError(
                f"`{name}` of {self.form.title} was called when {expected} was due: "
                "the order of its layers is not the one it was rewritten with. Rewrite "
                "it again by to_state_space."
            )
        self.position += 1
        return position

    def cross(self, name: str, message: Tensor) -> Tensor:
        """The state in place of what arrives at a point.

        Raises:
            StepError: If it is not the module's turn, or the state held was changed.
        """
        k = self.due(name)
        if k == 0:
            state = self.start(message)
        else:
            before = self.held
            assert before is not None  # the point before has put it there
            if not torch.compiler.is_compiling() and before._version != self.version:
                raise StepError(
                    f"The state before `{name}` was changed in place by "
                    f"`{self.route[k - 1]}`. Replace operations such as `x.relu_()` or "
                    "`x += h` on a layer's input by `x = x.relu()`."
                )
            state = self.advance(k, before, message)
        self.held = state if k + 1 < len(self.route) else None
        if not torch.compiler.is_compiling():
            self.version = state._version
        return state

    @contextmanager
    def watch(self) -> Iterator[list[Tensor]]:
        """The states of the latest run, as a list that fills while it runs."""
        states: list[Tensor] = []

        def observe(k: int, state: Tensor) -> Tensor:
            if k == 0:
                states.clear()
                if torch.is_grad_enabled() and not state.requires_grad:
                    state = state.detach().requires_grad_()
            states.append(state)
            return state

        with self._observed(observe):
            yield states

    def segment(
        self, i: int, j: int, call: Callable[[], Any]
    ) -> Callable[[Tensor], Tensor]:
        """The map from state i to state j in the run that ``call`` makes."""

        def function(start: Tensor) -> Tensor:
            reached: list[Tensor] = []

            def observe(k: int, state: Tensor) -> Tensor:
                state = start if k == i else state
                if k == j:
                    reached.append(state)
                    raise _Reached
                return state

            with self._observed(observe):
                try:
                    call()
                except _Reached:
                    return reached[0]
            raise StepError(
                f"`call` did not run {self.form.title} up to state {j}. Pass a "
                "function that calls it, e.g. `problem.run`."
            )

        return function

    @contextmanager
    def _observed(self, observer: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
        self.observers.append(observer)
        try:
            yield
        finally:
            self.observers.remove(observer)
