"""How data are read, rebuilt and checked."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from graphs import hetero_graph, random_graph
from snapshots import frozen
from stubborn import gcn
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

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
    map_tensors,
)

Pair = namedtuple("Pair", ["left", "right"])
A, B = torch.arange(3.0), torch.ones(2, 2)

NESTED: dict[str, Any] = {
    "tensor": A,
    "list": [A, 1, "text", None],
    "tuple": (A, (B, [A])),
    "dictionary": {"a": A, 2: {"b": B}},
    "named tuple": Pair(A, [B]),
    "call": ((A, B), {"mask": None, "nested": [A]}),
    "nothing": None,
    "graph": random_graph(),
    "kinds of nodes": hetero_graph(),
    "batch": Batch.from_data_list([random_graph(), random_graph(6)]),
    "graph in a list": [random_graph()],
}

kinds = pytest.mark.parametrize("value", NESTED.values(), ids=NESTED.keys())


def content(value: Any) -> Any:
    """Everything inside, with the identity of each tensor."""
    if hasattr(value, "to_dict"):
        return frozen(value.to_dict())
    if isinstance(value, list | tuple):
        return [type(value), *map(content, value)]
    if isinstance(value, dict):
        return {key: content(item) for key, item in value.items()}
    return frozen(value)


@kinds
def test_mapping_the_identity_changes_nothing(value: Any) -> None:
    before = content(value)
    assert content(map_tensors(value, lambda tensor: tensor)) == before
    assert content(value) == before


@kinds
def test_mapping_rebuilds_and_leaves_the_argument_alone(value: Any) -> None:
    before, tensors = content(value), leaf_tensors(value)
    doubled = map_tensors(value, lambda tensor: 2 * tensor)
    assert content(value) == before
    assert type(doubled) is type(value)
    found = leaf_tensors(doubled)
    assert len(found) == len(tensors)
    for old, new in zip(tensors, found, strict=True):
        assert torch.equal(new, 2 * old)
        assert not tensors or all(new is not tensor for tensor in tensors)


@kinds
def test_mapping_is_a_functor(value: Any) -> None:
    def up(tensor: Tensor) -> Tensor:
        return tensor + 1

    def twice(tensor: Tensor) -> Tensor:
        return 2 * tensor

    one = leaf_tensors(map_tensors(map_tensors(value, up), twice))
    other = leaf_tensors(map_tensors(value, lambda tensor: twice(up(tensor))))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_named_tuples_and_batches_stay_what_they_are() -> None:
    pair = map_tensors(Pair(A, B), lambda tensor: -tensor)
    assert torch.equal(pair.right, -B)
    batch = map_tensors(NESTED["batch"], torch.clone)
    assert batch.num_graphs == 2
    assert torch.equal(batch[1].x, NESTED["batch"][1].x)


@pytest.mark.parametrize("value", [OrderedDict(a=A), {A.sum()}, nn.Identity(), "text"])
def test_other_containers_are_opaque(value: Any) -> None:
    assert map_tensors(value, lambda tensor: tensor + 1) is value
    assert leaf_tensors(value) == []


def test_attributes_are_tensors_or_dictionaries_of_them() -> None:
    data = random_graph()
    data.name = "a graph"
    assert attribute(data, "x") is data.x
    assert attribute(data, "name") is None
    assert attribute(data, "absent") is None
    hetero = hetero_graph()
    assert attribute(hetero, "x_dict").keys() == {"paper", "author"}
    assert attribute(hetero, "y").keys() == {"paper"}
    assert attribute(hetero, "absent") is None


def test_attribute_names_are_listed() -> None:
    assert attribute_names(random_graph()) == "edge_index, x, y"
    assert attribute_names(Data()) == "no attributes"
    assert attribute_names((A, B)) == "no attributes"


def test_edge_indices_are_found_everywhere() -> None:
    data = random_graph()
    assert edge_indices(data) == [data.edge_index]
    assert edge_indices(Data(x=A)) == []
    assert len(edge_indices(hetero_graph())) == 3
    found = edge_indices(((data.x, data.edge_index), {"labels": data.y}))
    assert found == [data.edge_index]


@pytest.mark.parametrize("data", [random_graph(), hetero_graph(), ((A,), {})])
def test_good_data_pass(data: Any) -> None:
    check_graph(data)
    check_devices(gcn(), data)


@pytest.mark.parametrize(
    ("replaced", "error", "match"),
    [
        ({"x": torch.zeros(0, 3)}, ValueError, "empty graph"),
        ({"edge_index": torch.tensor([[0], [8]])}, ValueError, "points to node 8"),
        ({"edge_index": torch.tensor([[-2], [0]])}, ValueError, "points to node -2"),
        ({"edge_index": torch.ones(2, 1)}, TypeError, "must be torch.int64"),
        ({"edge_index": torch.ones(3, 2).long()}, ValueError, r"must have shape \(2"),
        ({"x": torch.full((8, 3), torch.nan)}, ValueError, "in 8 of 8 rows"),
        ({"z": torch.ones(8).cfloat()}, TypeError, "Complex features"),
    ],
)
def test_bad_graphs_are_refused(
    replaced: dict[str, Tensor], error: type[Exception], match: str
) -> None:
    data = random_graph()
    data.num_nodes = 0 if "x" in replaced and not len(replaced["x"]) else 8
    for name, value in replaced.items():
        data[name] = value
    with pytest.raises(error, match=match):
        check_graph(data)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (torch.tensor([2, 0], dtype=torch.int32), torch.tensor([2, 0])),
        (torch.tensor([True, False]), torch.tensor([1, 0])),
        (torch.tensor([[1, 0], [1, 1]]), torch.tensor([[1.0, 0], [1, 1]])),
        (torch.tensor([0.5, 2]), torch.tensor([0.5, 2])),
    ],
)
def test_labels_have_a_type_that_a_loss_takes(target: Tensor, expected: Tensor) -> None:
    found = as_labels(target)
    assert found is not None
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_no_labels_stay_none() -> None:
    assert as_labels(None) is None


def test_labels_that_are_no_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2\) with values from -1 to 3: pass"):
        as_labels(torch.tensor([[-1, 3]]))


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((2, 3), torch.tensor([2, 0])),
        ((2, 1), torch.tensor([1, 0])),
        ((2,), torch.tensor([1, 0])),
        ((2, 1), torch.tensor([0.5, 3.0])),
        ((2, 3), torch.zeros(2, 3)),
    ],
)
def test_labels_that_fit_the_output_pass(
    shape: tuple[int, ...], target: Tensor
) -> None:
    check_labels(torch.zeros(shape), target)


@pytest.mark.parametrize(
    ("shape", "target", "match"),
    [
        ((2, 3), torch.tensor([3, 0]), r"in \[0, 2\], as the output has 3 .* Got 3"),
        ((2, 3), torch.tensor([-1, 0]), "Got -1: mask rows without a label"),
        ((2, 1), torch.tensor([2, 0]), r"in \[0, 1\], as the output has 1 .* Got 2"),
        ((2, 3), torch.zeros(2, 2), r"shape \(2, 3\) and the target \(2, 2\)"),
    ],
)
def test_labels_that_do_not_fit_the_output_are_refused(
    shape: tuple[int, ...], target: Tensor, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        check_labels(torch.zeros(shape), target)


def test_lazy_widths_are_refused() -> None:
    model = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(ValueError, match=r"Parameter `0\.weight` has no shape yet"):
        check_placement(model, random_graph())


def test_another_precision_is_refused_but_for_autocast() -> None:
    model, data = gcn().float(), random_graph()
    with pytest.raises(ValueError, match="float32 and the features are torch"):
        check_placement(model, data)
    with torch.autocast("cpu", torch.bfloat16):
        check_placement(model, data)


@pytest.mark.parametrize("data", [((A, B), {}), random_graph(), hetero_graph()])
def test_one_tensor_elsewhere_is_refused(data: Any) -> None:
    tensors = leaf_tensors(data)
    moved = map_tensors(data, lambda t: t.to("meta") if t is tensors[-1] else t)
    with pytest.raises(ValueError, match="The model is on cpu and the data on meta"):
        check_devices(gcn(), moved)
    with pytest.raises(ValueError, match="The model is on cpu and the data on meta"):
        check_devices(nn.Identity(), moved)
