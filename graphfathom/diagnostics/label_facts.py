r"""How well labels can be predicted without any network: is there anything to learn?

A ridge regression on one-hot labels, in closed form, reads each node's own features X,
the mean PX of its neighbours', both with two hops, :math:`[X, PX, P^2X]`, or the
products of two of these. What it gets right in cross-validation tells noisy labels from
hard ones, as far as two hops and pairs of features can: where labels are hard to tell,
confident guesses are right; where they are noisy, those err as often as all others.

Glossary: n nodes, C classes; K the Gram matrix of the standardised features of one
input, of shape (n, n); P the mean over the neighbours in the symmetrised graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.structure import GraphStructure
from graphfathom.problem import Problem

__all__ = ["INPUTS", "label_observations"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

INPUTS = ("features", "neighbours", "both", "products")
"""What the predictor reads: X, PX, both with two hops, products of two of these."""
MAX_ROWS = 1000
"""Nodes that are used of a larger mask: the standard error is below 0.016."""
MAX_PRODUCTS = 2**30
"""Multiplications for the means over neighbours: about a second."""
FOLDS = 5
"""Of cross-validation: Hastie, Tibshirani and Friedman 2009, Section 7.10."""
VARIED = 0.05
"""Standard deviation of a column, over that of the features, below which it is left
out: the mean over a complete graph varies by 1/N, and would still tell oneself."""
CONFIDENT = 3
"""One of so many guesses counts as confident: enough of them for a standard error."""


def label_observations(
    problem: Problem, structure: GraphStructure | None
) -> list[Observation]:
    r"""Accuracy of a linear predictor of the labels that enter the loss.

    .. math:: \hat Y = K_* (K + I)^{-1} (Y - \bar Y) + \bar Y

    with one-hot labels Y and their mean. Columns are divided by the standard deviation
    of X, also those of PX and :math:`P^2X`: what neighbourhoods no longer tell apart
    stays small. Matrices K are scaled so that a row of X has mean squared norm 1; the
    penalty I then expects as much noise as signal in it. It is not chosen by the
    labels, so that no accuracy is selected to be high.

    Args:
        problem: Data with ``x`` and classes; the mask of the loss says which nodes
            train. The model is not run.
        structure: The graph of the nodes.

    Returns:
        ``labels.predictable.`` and one of :data:`INPUTS`: accuracy in five-fold
        cross-validation; ``labels.predictable.confident``: that on both, on the third
        of the nodes with the largest margin; ``labels.majority``: share of the most
        frequent class among the same labels; ``labels.predictable.val``: that on both,
        learnt from and judged by the labels of ``val_mask``, from no more of them than
        train; ``labels.agreement.val``: learnt from the training labels and judged by
        these; ``labels.agreement.edges``: by how much more often than by chance joined
        nodes have the same label. All but the majority have a standard error. Empty
        where there are no classes, no float features of one row per node, or a class
        of the loss has fewer than five labels.

    References:
        | The Elements of Statistical Learning (Hastie, Tibshirani and Friedman, 2009),
          Sections 3.4 and 7.10
        | Confident Learning: Estimating Uncertainty in Dataset Labels (Northcutt, Jiang
          and Chuang, 2021), https://arxiv.org/abs/1911.00068
    """
    x, classes = _features(problem), _classes(problem)
    if x is None or classes is None or structure is None:
        return []
    if not len(x) == len(classes) == structure.num_nodes:
        return []
    train = _labelled(problem.mask, classes)
    if not _has_folds(classes[train]):
        return []
    agreement = _edge_agreement(classes, train, structure)
    train = _some(train)
    val = _some(_labelled(_validation_mask(problem), classes))
    grams = _grams(x, structure, np.concatenate([train, val]), len(train))
    if grams is None:
        return agreement
    fits = {name: _validated(grams[name], classes[train]) for name in INPUTS}
    rows = [_accuracy(f"predictable.{name}", fits[name].right) for name in INPUTS]
    rows.append(_accuracy("predictable.confident", fits["both"].confident()))
    majority = np.bincount(classes[train]).max() / len(train)
    rows.append(_share("majority", float(majority), None))
    return [*rows, *_on_validation(grams["both"], classes, train, val), *agreement]


def _on_validation(
    gram: Array, classes: Indices, train: Indices, val: Indices
) -> list[Observation]:
    """Two predictors on the validation nodes: one saw the training labels, one its own.

    The rows of the matrix are the training nodes, then the validation nodes.
    """
    if not len(val):
        return []
    n = len(train)
    scores = _scores(gram[:, :n], classes[train], np.arange(n))[n:]
    rows = [_accuracy("agreement.val", scores.argmax(axis=1) == classes[val])]
    if _has_folds(classes[val]):
        own = _validated(gram[n:, n:], classes[val], most=n)
        rows.append(_accuracy("predictable.val", own.right))
    return rows


def _features(problem: Problem) -> Array | None:
    x = None if problem.is_call else problem.data.get("x")
    if not isinstance(x, Tensor) or x.dim() != 2 or not x.is_floating_point():
        return None
    if x.layout != torch.strided or not x.numel():
        return None
    return x.detach().double().cpu().numpy()


def _classes(problem: Problem) -> Indices | None:
    target = problem.target
    if target is None or target.is_floating_point() or target.dim() != 1:
        return None
    return target.detach().cpu().numpy()


def _validation_mask(problem: Problem) -> Tensor | None:
    mask = problem.data.get("val_mask")
    if not isinstance(mask, Tensor):
        return None
    return mask[:, 0] if mask.dim() == 2 else mask


def _labelled(mask: Tensor | None, classes: Indices) -> Indices:
    """Labelled nodes of a mask; none without one."""
    if mask is None or len(mask) != len(classes):
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(mask.bool().cpu().numpy() & (classes >= 0))


def _has_folds(labels: Indices) -> bool:
    """Whether there are two classes, each with a label for every fold."""
    counts = np.unique(labels, return_counts=True)[1]
    return len(counts) > 1 and int(counts.min()) >= FOLDS


def _some(nodes: Indices) -> Indices:
    """At most :data:`MAX_ROWS` of the nodes, the same in every call."""
    if len(nodes) <= MAX_ROWS:
        return nodes
    return np.random.default_rng(0).choice(nodes, MAX_ROWS, replace=False)


def _edge_agreement(
    classes: Indices, train: Indices, structure: GraphStructure
) -> list[Observation]:
    """How much more often than by chance joined labels are equal."""
    known = np.zeros(len(classes), dtype=bool)
    known[train] = True
    source, target = structure.source.cpu().numpy(), structure.target.cpu().numpy()
    inside = known[source] & known[target]
    if not inside.any():
        return []
    counts = np.bincount(classes[train])
    # The ends of an edge are two different nodes: drawn without replacement.
    pairs = len(train) * (len(train) - 1)
    chance = float((counts * (counts - 1)).sum() / pairs)
    equal = float((classes[source[inside]] == classes[target[inside]]).mean())
    stderr = math.sqrt(chance * (1 - chance) / inside.sum())
    return [_share("agreement.edges", equal - chance, stderr)]


def _grams(
    x: Array, structure: GraphStructure, nodes: Indices, num_train: int
) -> dict[str, Array] | None:
    """Gram matrix of every input at some nodes, the training nodes first.

    None where the means over two hops would take too long.
    """
    mean = _neighbour_mean(structure)
    once = mean[nodes]
    near = np.unique(once.indices)
    twice = mean[near]
    if (once.nnz + twice.nnz) * x.shape[1] > MAX_PRODUCTS:
        return None
    hops = (x[nodes], once @ x, once[:, near] @ (twice @ x))
    spread = x[nodes[:num_train]].std(axis=0)
    spread[spread == 0] = 1
    own, neighbours, far = (_gram(rows / spread, num_train) for rows in hops)
    size = _mean_square(own)
    both = (own + neighbours + far) / size
    products = (1 + both) ** 2
    grams = (own / size, neighbours / size, both, products / _mean_square(products))
    return dict(zip(INPUTS, grams, strict=True))


def _neighbour_mean(structure: GraphStructure) -> csr_array:
    """P, with empty rows at isolated nodes."""
    n = structure.num_nodes
    source, target = structure.source.cpu().numpy(), structure.target.cpu().numpy()
    weight = np.tile(structure.weight.cpu().numpy(), 2)
    ends = (np.concatenate([source, target]), np.concatenate([target, source]))
    total = np.bincount(ends[0], weight, minlength=n)
    return csr_array(coo_array((weight / total[ends[0]], ends), shape=(n, n)))


def _gram(rows: Array, num_train: int) -> Array:
    """Products of rows, centred on the training nodes, of columns that vary."""
    rows = rows - rows[:num_train].mean(axis=0)
    rows = rows[:, rows[:num_train].std(axis=0) > VARIED]
    return rows @ rows.T


def _mean_square(gram: Array) -> float:
    """Mean squared norm of a row; 1 where all rows are zero."""
    return float(np.trace(gram)) / len(gram) or 1.0


@dataclass(frozen=True)
class _Fit:
    """What a predictor says of labels that it has not seen."""

    right: NDArray[np.bool_]
    margin: Array

    def confident(self) -> NDArray[np.bool_]:
        """Whether the most confident guesses are right."""
        count = -(-len(self.right) // CONFIDENT)
        return self.right[np.argsort(-self.margin, kind="stable")[:count]]


def _validated(gram: Array, labels: Indices, most: int | None = None) -> _Fit:
    """Cross-validation, learning from at most so many labels at a time."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty_like(labels)
    fold[by_class] = np.arange(len(labels)) % FOLDS  # every class in every fold
    right, margin = np.empty(len(labels), dtype=bool), np.empty(len(labels))
    for k in range(FOLDS):
        seen, held = order[fold[order] != k][:most], np.flatnonzero(fold == k)
        scores = _scores(gram, labels, seen)[held]
        right[held] = scores.argmax(axis=1) == labels[held]
        best = np.sort(scores, axis=1)
        margin[held] = best[:, -1] - best[:, -2]
    return _Fit(right, margin)


def _scores(gram: Array, labels: Indices, seen: Indices) -> Array:
    """Scores of the classes, of shape (n, C), by a predictor that saw some labels."""
    onehot = np.eye(int(labels.max()) + 1)[labels[seen]]
    mean, own = onehot.mean(axis=0), gram[np.ix_(seen, seen)]
    factor = cho_factor(own + np.eye(len(seen)), lower=True)
    return gram[:, seen] @ cho_solve(factor, onehot - mean) + mean


def _accuracy(name: str, right: NDArray[np.bool_]) -> Observation:
    """A share with its standard error, which is not 0 where all are right."""
    share = (right.sum() + 1) / (len(right) + 2)
    stderr = math.sqrt(share * (1 - share) / len(right))
    return _share(name, float(right.mean()), stderr)


def _share(name: str, value: float, stderr: float | None) -> Observation:
    return Observation(f"labels.{name}", "model", value, stderr, unit="share")
