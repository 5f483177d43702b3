"""Each bad input where a user meets it: a clear refusal or a stated finding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import graphs
import pytest
import torch
from graphs import no_edges, one_node, random_graph
from snapshots import differences, snapshot
from stubborn import gcn
from torch import Tensor
from torch_geometric.data import Data, HeteroData

from graphfathom import diagnose
from graphfathom.diagnostics.recorder import ForwardError


def graph(**attributes: Any) -> Data:
    """A graph of 8 nodes with some attributes replaced."""
    data = random_graph()
    for name, value in attributes.items():
        data[name] = value
    return data


def edges(*pairs: tuple[int, int]) -> Tensor:
    """Edges, one per column."""
    return torch.tensor(pairs).t().contiguous()


def bad_row(value: float) -> Tensor:
    """Features of which one entry is no number."""
    x = random_graph().x.clone()
    x[3, 1] = value
    return x


EDGES = random_graph().edge_index
X = random_graph().x
NONE = torch.zeros(8, dtype=torch.bool)

REFUSED: dict[str, tuple[Callable[[], Data], type[Exception], str]] = {
    "empty graph": (
        lambda: Data(x=torch.zeros(0, 3), edge_index=EDGES[:, :0]),
        ValueError,
        "`data` is an empty graph: it has 0 nodes",
    ),
    "nothing at all": (Data, ValueError, "`data` is an empty graph: it has 0 nodes"),
    "edge to a node that is not there": (
        lambda: graph(edge_index=edges((0, 1), (2, 8))),
        ValueError,
        r"`edge_index` points to node 8, but the graph has 8 nodes \(0 to 7\)",
    ),
    "edge from a negative node": (
        lambda: graph(edge_index=edges((0, 1), (-1, 2))),
        ValueError,
        "`edge_index` points to node -1, but the graph has 8 nodes",
    ),
    "edges as floats": (
        lambda: graph(edge_index=EDGES.float()),
        TypeError,
        r"must be torch.int64. Got torch.float32: call `edge_index.long\(\)`",
    ),
    "edges as int32": (
        lambda: graph(edge_index=EDGES.int()),
        TypeError,
        "must be torch.int64. Got torch.int32",
    ),
    "edges transposed": (
        lambda: graph(edge_index=EDGES.t()),
        ValueError,
        r"must have shape \(2, E\). Got \(30, 2\): transpose it",
    ),
    "edges in one row": (
        lambda: graph(edge_index=EDGES[0]),
        ValueError,
        r"must have shape \(2, E\). Got \(30,\)",
    ),
    "NaN features": (
        lambda: graph(x=bad_row(torch.nan)),
        ValueError,
        "NaN or infinite features in 1 of 8 rows, first in row 3: clean",
    ),
    "infinite features": (
        lambda: graph(x=bad_row(-torch.inf)),
        ValueError,
        "NaN or infinite features in 1 of 8 rows, first in row 3: clean",
    ),
    "mask that selects nothing": (
        lambda: graph(train_mask=NONE),
        ValueError,
        "`mask` selects no row: the loss would be empty",
    ),
    "mask of another length": (
        lambda: graph(train_mask=torch.ones(5, dtype=torch.bool)),
        ValueError,
        "`mask` has 5 rows and the output 8: pass `mask=`",
    ),
    "mask of row numbers": (
        lambda: graph(train_mask=torch.tensor([0, 3, 5])),
        TypeError,
        "`mask` must be a boolean tensor .* Got torch.int64",
    ),
    "no labelled row": (
        lambda: graph(y=torch.full((8,), -1)),
        ValueError,
        "No row of the target is labelled",
    ),
    "no labelled row of floats": (
        lambda: graph(y=torch.full((8, 2), torch.nan)),
        ValueError,
        "No row of the target is labelled",
    ),
    "classes beyond the output": (
        lambda: graph(y=torch.arange(8)),
        ValueError,
        r"Classes must be in \[0, 1\], as the output has 2 columns. Got 7",
    ),
    "unlabelled rows in the mask": (
        lambda: graph(y=torch.arange(8) % 2 - 1, train_mask=~NONE),
        ValueError,
        r"Classes must be in \[0, 1\].* Got -1: mask rows without a label",
    ),
    "labels of another width": (
        lambda: graph(y=torch.randn(8, 3)),
        ValueError,
        r"The output has shape \(8, 2\) and the target \(8, 3\)",
    ),
    "several classes per row": (
        lambda: graph(y=torch.arange(16).view(8, 2)),
        ValueError,
        r"Integer labels must be one class per row.*\(8, 2\) with values from 0 to 15",
    ),
    "labels of another length": (
        lambda: graph(y=torch.tensor([0, 1, 0])),
        ValueError,
        "The output has 8 rows and the target 3: pass `target=`",
    ),
    "float16 features": (
        lambda: graph(x=X.half()),
        ValueError,
        r"model is in torch.float64 and the features are torch.float16: cast one",
    ),
    "complex features": (
        lambda: graph(x=X.to(torch.complex128)),
        TypeError,
        "Complex features are not supported. Got torch.complex128: pass real and",
    ),
    "features on another device": (
        lambda: graph(x=X.to("meta")),
        ValueError,
        r"The model is on cpu and the data on meta: call `data.to\('cpu'\)`",
    ),
    "edges on another device": (
        lambda: graph(edge_index=EDGES.to("meta")),
        ValueError,
        r"The model is on cpu and the data on meta: call `data.to\('cpu'\)`",
    ),
    "labels on another device": (
        lambda: graph(y=torch.arange(8, device="meta")),
        ValueError,
        r"The model is on cpu and the data on meta: call `data.to\('cpu'\)`",
    ),
    "no features": (
        lambda: Data(edge_index=EDGES, num_nodes=8),
        TypeError,
        r"`GCN.forward` needs x, which the data does not have \(it has edge_index",
    ),
    "integer features without an embedding": (
        lambda: graph(x=X.long()),
        ForwardError,
        "The forward pass of GCN failed in `convs.0",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_cannot_be_used_are_refused(name: str) -> None:
    build, error, match = REFUSED[name]
    model, data = gcn(), build()
    before = snapshot(model, data)
    with pytest.raises(error, match=match):
        diagnose(model, data)
    assert differences(before, snapshot(model, data)) == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"mask": "absent"},
            r"`mask` must name an attribute .* Got 'absent'; the data",
        ),
        ({"target": "absent"}, "`target` must name an attribute of the data. Got 'abs"),
        ({"mode": "train"}, "`mode` must be one of auto, init, eval. Got 'train'"),
        ({"layers": "blocks.*"}, r"No message-passing layer that matches 'blocks\.\*'"),
        (
            {"loss": lambda out, y: out.sum(1)},
            r"must return a scalar. Got shape \(8,\)",
        ),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(
    options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        diagnose(gcn(), random_graph(), **options)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (None, "`data` must be a PyG Data, .* Got NoneType"),
        ("Cora", "`data` must be a PyG Data, .* Got str"),
        ((X, EDGES), r"or a pair \(args, kwargs\). Got tuple"),
        (X, "`data` must be a PyG Data, .* Got Tensor"),
    ],
)
def test_what_is_no_data_is_refused(data: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        diagnose(gcn(), data)


def test_a_loader_without_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="`data` is a loader without a batch"):
        diagnose(gcn(), [])


NEVER_HEALTHY: dict[str, Callable[[], Data]] = {
    "one node": one_node,
    "no edges": no_edges,
    "constant features": lambda: graph(x=torch.ones(8, 3)),
    "zero features": lambda: graph(x=torch.zeros(8, 3)),
    "equal labels": lambda: graph(y=torch.zeros(8, dtype=torch.long)),
    "equal labels in the mask": lambda: graph(train_mask=torch.arange(8) % 2 == 0),
    "equal multi-hot labels": lambda: graph(y=torch.ones(8, 2)),
    "equal targets": lambda: graph(y=torch.full((8, 2), 0.3)),
    "no labels": lambda: Data(x=X, edge_index=EDGES),
}

EXPECTED = {
    "one node": {"equal-labels", "not-enough-evidence"},
    "no edges": {"not-enough-evidence"},
    "constant features": {"constant-features"},
    "zero features": {"constant-features"},
    "no labels": {"not-enough-evidence"},
}


@pytest.mark.parametrize("depth", [1, 3, 12])
@pytest.mark.parametrize("name", NEVER_HEALTHY)
def test_poor_data_have_a_stated_finding(name: str, depth: int) -> None:
    model, data = gcn(depth), NEVER_HEALTHY[name]()
    before = snapshot(model, data)
    report = diagnose(model, data)
    names = {finding.name for finding in report.findings}
    assert "healthy" not in names
    assert report.severity in ("unknown", "warning", "critical")
    # A deep network is ill on any data; a shallow one only because of these.
    if depth < 12:
        assert report.verdict.name in EXPECTED.get(name, {"equal-labels"})
    assert str(report)
    assert differences(before, snapshot(model, data)) == []


def hetero(**paper: Any) -> HeteroData:
    """Papers and authors, with some attributes of the papers replaced."""
    data = graphs.hetero_graph()
    for name, value in paper.items():
        data["paper"][name] = value
    return data


def test_edges_between_other_kinds_are_checked_too() -> None:
    data = hetero()
    data["author", "writes", "paper"].edge_index = edges((3, 0), (0, 1))
    with pytest.raises(ValueError, match="points to node 3, but the graph has 3 nodes"):
        diagnose(gcn(), data)


def test_features_of_a_call_that_are_no_numbers() -> None:
    data = graph(x=bad_row(float("nan")))
    with pytest.raises(ValueError, match=r"A tensor of the call has NaN or infinite"):
        diagnose(gcn(2), ((data.x, data.edge_index), {}))


def test_features_of_a_node_type_that_are_no_numbers() -> None:
    data = HeteroData()
    data["paper"].x = bad_row(float("inf"))
    data["paper", "cites", "paper"].edge_index = EDGES
    with pytest.raises(ValueError, match=r"`data\['paper'\].x` has NaN or infinite"):
        diagnose(gcn(2), data)


def test_a_loss_without_labels() -> None:
    data = random_graph()
    del data.y
    with pytest.raises(ValueError, match=r"`loss` needs labels.*pass `target=`"):
        diagnose(gcn(2), data, loss=torch.nn.functional.mse_loss)
