"""Side by side: a network, its stabilized form and controls, trained alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from graphfathom.diagnostics.controls import copy_of, mlp, shallow
from graphfathom.diagnostics.facts import accuracy_observations
from graphfathom.diagnostics.sandbox import random_state
from graphfathom.diagnostics.trace import capture
from graphfathom.problem import Problem
from graphfathom.training import fit
from graphfathom.verbs.session import silent

__all__ = ["Scores", "SideBySide", "Trained", "side_by_side"]

LR, WEIGHT_DECAY = 0.01, 5e-4
"""Settings of Adam: Section 5.2 of the GCN paper, the defaults of ``fit``."""
EPOCHS = 200
"""Section 5.2 of the GCN paper."""

OnEpoch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Scores:
    """How a network does in evaluation mode after an epoch."""

    epoch: int
    """Counted from 1; 0 is before training."""
    loss: float
    """On the rows that are trained on."""
    accuracy: dict[str, float]
    """Of those of ``"train"``, ``"val"`` and ``"test"`` that the data has masks of."""


@dataclass(frozen=True)
class Trained:
    """One network after its training."""

    run: str
    """``"original"``, ``"stabilized"``, ``"shallow"`` or ``"mlp"``."""
    network: str
    """Its name in words."""
    layers: int
    parameters: int
    """Number of trainable parameters."""
    last: Scores
    best: Scores | None
    """At the first epoch with the highest validation accuracy; None without one."""
    seconds: float
    """Wall-clock time of the steps, without the evaluations between them."""
    diverged: bool
    """True if a loss or a gradient that is not finite ended the training."""
    model: nn.Module = field(repr=False, compare=False)
    """The trained copy, with the weights of the best epoch, or else of the last."""

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain Python values."""
        names = (each.name for each in fields(self) if each.name != "model")
        record = {name: getattr(self, name) for name in names}
        best = None if self.best is None else asdict(self.best)
        return record | {"last": asdict(self.last), "best": best}


@dataclass(frozen=True)
class SideBySide:
    """Networks trained alike: same data, loss, epochs, seed and settings of Adam."""

    rows: tuple[Trained, ...]
    epochs: int
    seed: int
    lr: float = LR
    weight_decay: float = WEIGHT_DECAY
    notes: tuple[str, ...] = ()

    def __getitem__(self, run: str) -> Trained:
        for row in self.rows:
            if row.run == run:
                return row
        known = ", ".join(dict.fromkeys(row.run for row in self.rows))
        raise KeyError(f"`run` must be one of {known}. Got {run!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values."""
        settings = ("epochs", "seed", "lr", "weight_decay")
        return {
            **{name: getattr(self, name) for name in settings},
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        epochs = f"{self.epochs} epoch{'s' * (self.epochs != 1)}"
        lines = [
            f"Trained for {epochs} each: Adam, full batch, learning rate {self.lr:g}, "
            f"weight decay {self.weight_decay:g}, seed {self.seed}",
            "",
            *_table(self.rows),
            "",
            "  Accuracy in %; loss on the training rows; both in evaluation mode.",
        ]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def side_by_side(
    problem: Problem,
    deep: nn.Module | None,
    *,
    controls: bool = True,
    short: nn.Module | None = None,
    layers: str | None = None,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    on_epoch: OnEpoch | None = None,
) -> SideBySide:
    """Train a network, its stabilized form and two controls on the same settings.

    Every network is trained as a copy, from the weights that it has, with the same seed
    (dropout), number of epochs and settings of Adam. The networks that are passed and
    the random state stay as they are.

    Args:
        problem: The problem of the original network.
        deep: What :func:`~graphfathom.verbs.stabilize` returned for it; None: left out.
        controls: Whether to train the same network with few layers and an MLP, too.
        short: The network with few layers. Default: the original one, its first
            repeated layer alone kept, and its last where the widths demand it.
        layers: Pattern of the names of the modules that are layers.
        epochs: Number of epochs. Default 200: Section 5.2 of the GCN paper.
        seed: Seed of training and of the initial weights of the MLP.
        progress: Called with a sentence about ten times per network.
        on_epoch: ``on_epoch(network, done, total)`` after each epoch, counted over all
            networks.

    Returns:
        One row per network.

    Raises:
        ValueError: If the problem has no labels, ``epochs`` is less than 1 or a network
            has nothing to train.

    Example:
        >>> from torch_geometric.nn import GCN
        >>> data = graphfathom.datasets.csbm(60, 3, avg_degree=4, homophily=0.8, seed=0)
        >>> gcn = GCN(data.num_features, 16, num_layers=32, out_channels=3)
        >>> problem = graphfathom.Problem(gcn, data)
        >>> deep = graphfathom.stabilize(problem)
        >>> table = side_by_side(problem, deep, epochs=5)
        >>> [(row.run, row.layers) for row in table.rows]
        [('original', 32), ('stabilized', 32), ('shallow', 2), ('mlp', 2)]

    References:
        | Semi-Supervised Classification with Graph Convolutional Networks (Kipf and
          Welling, 2017), Section 5.2
        | https://arxiv.org/abs/1609.02907
    """
    if epochs < 1:
        raise ValueError(f"`epochs` must be >= 1. Got {epochs}.")
    if problem.target is None:
        raise ValueError(
            "`problem` needs labels to train on: put `y` into the data or pass "
            "`target=`."
        )
    trace = capture(problem, layers, dtype=None)
    name, depth = type(problem.model).__name__, trace.num_layers
    networks = [_Network("original", name, depth, problem)]
    if deep is not None:
        form = problem.replace(deep, problem.data)
        networks.append(_Network("stabilized", f"{name}, stabilized", depth, form))
    notes: list[str] = []
    if controls:
        few = None if short is None else problem.replace(short, problem.data)
        few = few or shallow(problem, trace)
        networks += _controls(name, few, mlp(problem, trace, seed), layers, notes)
    rows = []
    for place, network in enumerate(networks):
        counter = _Counter(network.name, place, len(networks), epochs, on_epoch)
        rows.append(_train(network, epochs, seed, progress or silent, counter))
    notes += [
        f"{row.network}: training diverged after {row.last.epoch} epochs."
        for row in rows
        if row.diverged
    ]
    return SideBySide(tuple(rows), epochs, seed, notes=tuple(notes))


@dataclass(frozen=True)
class _Network:
    run: str
    name: str
    layers: int
    problem: Problem


@dataclass(frozen=True)
class _Counter:
    """Counts the epochs of one network among those of all."""

    name: str
    place: int
    count: int
    epochs: int
    tell: OnEpoch | None

    def __call__(self, epoch: int) -> None:
        if self.tell is not None:
            done = self.place * self.epochs + epoch
            self.tell(self.name, done, self.count * self.epochs)


def _controls(
    name: str,
    few: Problem | None,
    dense: Problem | None,
    layers: str | None,
    notes: list[str],
) -> Iterator[_Network]:
    """The controls that there are; a note for each that is missing."""
    if few is None:
        notes.append(f"No {name} with few layers: no copy with fewer layers runs.")
    else:
        count = capture(few, layers, dtype=None).num_layers
        yield _Network("shallow", name, count, few)
    if dense is None:
        notes.append("No MLP: it needs features `x` and one output row per node.")
    else:
        yield _Network("mlp", "MLP, no graph", 2, dense)


def _train(
    network: _Network,
    epochs: int,
    seed: int,
    progress: Callable[[str], None],
    counter: _Counter,
) -> Trained:
    """Train a copy; the random state is left as it was."""
    problem = copy_of(network.problem)
    model = problem.model.eval()
    scores, evaluating = [_scores(problem, 0)], 0.0
    validates = "val" in scores[0].accuracy

    def evaluate(_: nn.Module) -> float:
        nonlocal evaluating
        start = time.perf_counter()
        scores.append(_scores(problem, len(scores)))
        evaluating += time.perf_counter() - start
        return scores[-1].accuracy["val"]

    with random_state():
        torch.manual_seed(seed)
        history = fit(
            model,
            lambda _: _loss(problem),
            epochs=epochs,
            lr=LR,
            weight_decay=WEIGHT_DECAY,
            evaluate=evaluate if validates else None,
            progress=lambda text: progress(f"{network.name}: {text}"),
            on_step=lambda epoch, _: counter(epoch + 1),
        )
    counter(epochs)  # also if the training ended before
    if not validates:
        scores.append(_scores(problem, len(history.losses) - history.diverged))
    best = history.best_epoch
    return Trained(
        run=network.run,
        network=network.name,
        layers=network.layers,
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        last=scores[-1],
        best=None if best is None else scores[best + 1],
        seconds=history.seconds - evaluating,
        diverged=history.diverged,
        model=model,
    )


def _loss(problem: Problem) -> Tensor:
    loss = problem.loss_of(problem.run())
    assert loss is not None  # side_by_side asks for labels
    return loss


@torch.no_grad()
def _scores(problem: Problem, epoch: int) -> Scores:
    output = problem.run()
    loss = problem.loss_of(output)
    rows = accuracy_observations(problem, output, "trained")
    return Scores(
        epoch,
        math.nan if loss is None else float(loss),
        {row.name.removeprefix("accuracy."): row.value for row in rows},
    )


def _table(rows: tuple[Trained, ...]) -> Iterator[str]:
    """Lines of a table with the columns for which there are numbers."""
    splits = [
        s for s in ("train", "val", "test") if any(s in r.last.accuracy for r in rows)
    ]
    chosen = [s for s in splits if s != "train"] if any(r.best for r in rows) else []
    wide = max([len("network"), *(len(row.network) for row in rows)]) + 2
    last = f"{'last epoch':>{7 * len(splits) + 10}}"
    best = f"{'best validation epoch':>{7 * len(chosen) + 8}}" if chosen else ""
    yield f"  {'':<{wide}}{'':>19}{last}{best}"
    names = [f"{name:>7}" for name in splits] + [f"{'loss':>10}"]
    names += [f"{'epoch':>8}", *(f"{name:>7}" for name in chosen)] if chosen else []
    head = f"{'layers':>8}{'parameters':>11}"
    yield f"  {'network':<{wide}}{head}{''.join(names)}{'seconds':>8}"
    for row in rows:
        cells = [_percent(row.last.accuracy.get(name)) for name in splits]
        cells.append(f"{row.last.loss:>10.3g}")
        if chosen and row.best is None:
            cells.append(f"{'-':>8}" + f"{'-':>7}" * len(chosen))
        elif chosen and row.best is not None:
            cells.append(f"{row.best.epoch:>8}")
            cells += [_percent(row.best.accuracy.get(name)) for name in chosen]
        head = f"{row.layers:>8}{row.parameters:>11,}"
        yield f"  {row.network:<{wide}}{head}{''.join(cells)}{row.seconds:>8.1f}"


def _percent(share: float | None) -> str:
    return f"{'-':>7}" if share is None else f"{100 * share:>7.1f}"
