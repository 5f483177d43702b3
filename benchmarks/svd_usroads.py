"""The largest singular value of a layer on the US road network in under a minute.

Command: ``python benchmarks/svd_usroads.py`` (a few minutes on two cores, 5 GB).
The aim is a relative residual of at most 1e-3 in under 60 s and 6 GB. The operator is
the Jacobian of a GCN layer with ReLU, 16 channels, on the 129,164 nodes of the network:
a matrix of side 2,066,624 in float64, known by its products. The peer is SciPy's
``svds`` (ARPACK) on the same products with the same tolerance on the same residual.

Each run has a process of its own, whose highest resident memory is reported, with
everything in it: Python, torch, the network and the basis. Seconds are those of the
search; to capture the layer takes another one. Both residuals are computed again from
the triplets, and both values must agree within them, or the script fails. ``--quick``
takes a grid, where both must agree with ``svds`` at full precision too.
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import statistics
import sys
import time
from dataclasses import dataclass

import torch
from _claim import parse, publish
from scipy.sparse.linalg import svds
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.datasets import SuiteSparseMatrixCollection
from torch_geometric.nn import GCNConv
from torch_geometric.utils import grid

from graphfathom.datasets import cache_folder, data_folder
from graphfathom.diagnostics.jacobian import JacobianOperator
from graphfathom.diagnostics.trace import capture
from graphfathom.linalg.restarted import largest_singular_values
from graphfathom.problem import Problem

CHANNELS = 16
TOL = 1e-3
RAW = "suitesparse/Gleich/usroads/raw/usroads.mat"


@dataclass(frozen=True)
class Result:
    """What one search took and found."""

    seconds: float
    gigabytes: float
    products: int
    value: float
    residual: float
    exact: float | None


class Layer(nn.Module):
    """A GCN layer with its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(CHANNELS, CHANNELS)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Node features to node features."""
        return self.conv(x, edge_index).relu()


def roads(quick: bool) -> tuple[Data, str]:
    """The network where it can be had, else a grid of its size."""
    folder, root = data_folder(), cache_folder() / "data" / "suitesparse"
    copy = root / "Gleich/usroads/raw/usroads.mat"
    if not quick and folder and not copy.exists() and (folder / RAW).is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / RAW, copy)
    if not quick and copy.exists():
        graph = SuiteSparseMatrixCollection(str(root), "Gleich", "usroads")[0]
        name, edge_index, num_nodes = "usroads", graph.edge_index, graph.num_nodes
    else:
        side = 60 if quick else 360
        name, num_nodes = f"grid of {side} x {side}", side * side
        edge_index, _ = grid(side, side)
    x = torch.randn(num_nodes, CHANNELS, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(num_nodes, dtype=torch.long)
    size = f"{name}: {num_nodes:,} nodes, {edge_index.shape[1]:,} edges"
    return Data(x=x, edge_index=edge_index, y=y), size


def jacobian(data: Data) -> JacobianOperator:
    """The Jacobian of the layer at these features."""
    torch.manual_seed(0)
    return capture(Problem(Layer(), data)).jacobian(0, 1)


def scipy_largest(
    operator: JacobianOperator, tol: float
) -> tuple[Tensor, float, Tensor, int]:
    """Leading triplet by ARPACK, and the products it took."""
    products = 0
    exported = operator.to_scipy()
    for name in ("_matvec", "_rmatvec"):

        def counted(vector: object, apply: object = getattr(exported, name)) -> object:
            nonlocal products
            products += 1
            return apply(vector)

        setattr(exported, name, counted)
    u, values, vt = svds(exported, k=1, tol=tol, rng=0)
    left, right = torch.from_numpy(u[:, 0].copy()), torch.from_numpy(vt[0].copy())
    return left, float(values[0]), right, products


def our_largest(operator: JacobianOperator) -> tuple[Tensor, float, Tensor, int]:
    """The same by this library."""
    generator = torch.Generator().manual_seed(0)
    found = largest_singular_values(operator, 1, tol=TOL, generator=generator)
    return found.U[:, 0], float(found.values[0]), found.V[:, 0], found.products


def measure(ours: bool, quick: bool, threads: int) -> Result:
    """One search in this process, which has done nothing else."""
    torch.set_num_threads(threads)
    operator = jacobian(roads(quick)[0])
    start = time.perf_counter()
    u, value, v, products = (
        our_largest(operator) if ours else scipy_largest(operator, TOL)
    )
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gaps = operator.matvec(v) - value * u, operator.rmatvec(u) - value * v
    residual = max(float(gap.norm()) for gap in gaps) / value
    exact = scipy_largest(operator, 0)[1] if quick else None
    return Result(seconds, peak / 1e9, products, value, residual, exact)


def measure_apart(ours: bool, quick: bool, threads: int) -> Result:
    """The same in a new process, whose memory was never used for anything else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (ours, quick, threads))


def wrong(one: Result, other: Result) -> str:
    """What is wrong with the two results, or ""."""
    if not max(one.residual, other.residual) <= 2 * TOL:
        return f"residuals: {one.residual:.1e}, {other.residual:.1e}"
    for value in (other.value, one.exact, other.exact):
        if value is not None and not abs(one.value - value) <= TOL * value:
            return f"values: {one.value}, {value}"
    return ""


def main() -> int:
    """Measure, check, print."""
    options = parse(__doc__ or "")
    rounds = 1 if options.quick else 3
    found: dict[bool, list[Result]] = {True: [], False: []}
    for _ in range(rounds):
        for ours, results in found.items():
            results.append(measure_apart(ours, options.quick, options.threads))
    graph = roads(options.quick)[1]
    if problem := wrong(found[True][0], found[False][0]):
        print(problem)
        return 1

    def median(ours: bool, name: str) -> float:
        return statistics.median(getattr(one, name) for one in found[ours])

    seconds = {ours: median(ours, "seconds") for ours in found}
    first = found[True][0]
    publish(
        {
            "claim": "svd_usroads",
            "ours": round(seconds[True], 2),
            "peer": round(seconds[False], 2),
            "ratio": round(seconds[False] / seconds[True], 2),
            "unit": "seconds to the largest singular value; peer: SciPy's svds",
            "size": f"Jacobian of ReLU GCN, width {CHANNELS}, {graph}",
            "rounds": rounds,
            "value": first.value,
            "residual": first.residual,
            "products": {"ours": first.products, "peer": found[False][0].products},
            "gigabytes": {
                "ours": round(median(True, "gigabytes"), 2),
                "peer": round(median(False, "gigabytes"), 2),
            },
        },
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
