"""How a model is bound to data and a loss."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import hetero_graph, path_graph, random_graph, ring_graph
from problems import CATALOGUE, Entry
from stubborn import gcn, sequential
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCN, GCNConv

from graphfathom import Problem
from graphfathom.problem import unwrap_model

EXACT = [entry for entry in CATALOGUE if not entry.match]


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    """The group of the DistributedDataParallel entry ends with this file."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
@pytest.mark.parametrize("entry", EXACT, ids=lambda entry: entry.name)
def test_a_problem_runs_its_model_as_the_user_does(entry: Entry) -> None:
    case = entry.case()
    case.model.eval()
    with torch.compiler.set_stance("force_eager"):  # compiling adds nothing here
        expected = case.run(case.features)
    assert torch.equal(case.problem().run(), expected)


class Echo(nn.Module):
    """Returns its arguments."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.forward = forward


def test_parameters_are_bound_by_name() -> None:
    data = random_graph()
    data.edge_weight = torch.rand(data.num_edges)
    model = Echo(lambda edge_index, x, edge_weight=None, batch=None: vars())
    found = Problem(model, data).call()
    assert found["x"] is data.x
    assert found["edge_index"] is data.edge_index
    assert found["edge_weight"] is data.edge_weight
    assert found["batch"] is None


def test_optional_parameters_may_be_absent() -> None:
    found = Problem(Echo(lambda x, edge_weight="default": vars()), random_graph())
    assert found.call()["edge_weight"] == "default"


def test_collected_arguments_receive_nothing() -> None:
    found = Problem(Echo(lambda x, *args, **kwargs: vars()), random_graph()).call()
    assert found["args"] == ()
    assert found["kwargs"] == {}


@pytest.mark.parametrize("name", ["data", "batch_data", "g"])
def test_a_single_unknown_parameter_receives_the_data(name: str) -> None:
    data = random_graph()
    problem = Problem(Echo(eval(f"lambda {name}: {name}")), data)
    assert problem.call() is data
    assert f"`{name}` of forward receives the data object." in problem.notes


@pytest.mark.parametrize(
    ("forward", "match"),
    [
        (
            lambda x, pos: x,
            r"`Echo.forward` needs pos, .* \(it has edge_index, x",
        ),
        (lambda a, b: a, "`Echo.forward` needs a, b, which the data"),
        (lambda *args: args, "`Echo.forward` needs arguments without names"),
    ],
)
def test_parameters_without_an_attribute_are_refused(
    forward: Callable[..., Any], match: str
) -> None:
    with pytest.raises(TypeError, match=match):
        Problem(Echo(forward), random_graph())


def test_a_batch_is_one_graph() -> None:
    data = Batch.from_data_list([path_graph(4), ring_graph(5)])
    found = Problem(Echo(lambda x, batch: (x, batch)), data).call()
    assert found[0].shape == (9, 3)
    assert found[1].tolist() == [0] * 4 + [1] * 5


@pytest.mark.parametrize("kind", [list, tuple, iter, DataLoader])
def test_the_first_batch_of_a_loader_is_taken(kind: Callable[[Any], Any]) -> None:
    graphs = [path_graph(4), ring_graph(5), path_graph(6)]
    problem = Problem(gcn(), kind(graphs))
    assert problem.num_nodes == (4,)
    assert "Measured on the first batch of the loader." in problem.notes


def test_heterogeneous_data_are_bound_as_dictionaries() -> None:
    data = hetero_graph()
    model = Echo(lambda x_dict, edge_index_dict: (x_dict, edge_index_dict))
    problem = Problem(model, data)
    xs, edges = problem.call()
    assert xs.keys() == {"paper", "author"}
    assert xs["author"] is data["author"].x
    assert edges.keys() == set(data.edge_types)
    assert problem.num_nodes == (4, 3)
    assert problem.num_edges == 15
    assert problem.edge_index is None
    # One kind of node has labels: they are found without being named.
    assert problem.target is not None
    assert problem.target.tolist() == [0, 1, 0, 1]


def test_a_call_is_repeated_as_it_is() -> None:
    data = random_graph()
    model = gcn()
    problem = Problem(model, ((data.x,), {"edge_index": data.edge_index}))
    assert torch.equal(problem.run(), model(data.x, data.edge_index))
    assert problem.num_nodes == (8,)
    assert problem.num_edges == data.num_edges
    assert problem.target is None
    assert repr(problem) == "Problem(GCN, 8 nodes, 30 edges, loss=none, mode=auto)"


def test_a_function_may_call_the_model() -> None:
    model, data = gcn(), random_graph()
    problem = Problem(
        model, data, forward_fn=lambda model, data: 2 * model(data.x, data.edge_index)
    )
    assert_close(problem.run(), 2 * model(data.x, data.edge_index))


def test_sequential_of_pyg_is_bound_by_name() -> None:
    data = random_graph()
    random.seed()  # or its code is that of another test, see `copy_model`
    model = sequential(GCNConv(3, 2))
    assert torch.equal(Problem(model, data).run(), model(data.x, data.edge_index))


def test_a_dense_adjacency_is_an_argument_like_others() -> None:
    data = random_graph()
    data.adj = torch.rand(8, 8)
    found = Problem(Echo(lambda x, adj: adj @ x), data).run()
    assert torch.equal(found, data.adj @ data.x)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        lambda model: torch.compile(model, backend="eager"),
        nn.DataParallel,
        lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
    ],
)
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = gcn()
    assert unwrap_model(wrap(model)) is model
    assert Problem(wrap(model), random_graph()).model is model


def test_distributed_models_are_unwrapped() -> None:
    entry = next(entry for entry in CATALOGUE if entry.name == "GCN distributed")
    case = entry.case()
    assert isinstance(case.model, nn.parallel.DistributedDataParallel)
    assert case.problem().model is case.model.module


def labelled(y: Tensor, columns: int = 2, **options: Any) -> tuple[Problem, Tensor]:
    """A problem with these labels, and an output of so many columns."""
    data = random_graph()
    data.y = y
    return Problem(gcn(), data, **options), torch.randn(8, columns)


CLASSES = torch.arange(8) % 3
BINARY = torch.arange(8) % 2
MULTI_HOT = torch.tensor([[1, 0, 1], [0, 1, 1]] * 4)
REALS = torch.linspace(-2, 2, 16).view(8, 2)


@pytest.mark.parametrize("y", [CLASSES, CLASSES.view(8, 1), CLASSES.int()])
def test_classes_have_cross_entropy(y: Tensor) -> None:
    problem, output = labelled(y, 3)
    assert problem.describe_loss(output) == "cross-entropy"
    assert_close(problem.loss_of(output), F.cross_entropy(output, CLASSES))
    assert problem.num_classes == 3
    explicit = Problem(gcn(), random_graph(), target=y)
    assert_close(explicit.loss_of(output), problem.loss_of(output))


def test_boolean_labels_are_classes() -> None:
    problem, output = labelled(BINARY.bool())
    assert_close(problem.loss_of(output), F.cross_entropy(output, BINARY))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_log_probabilities_have_negative_log_likelihood(dtype: torch.dtype) -> None:
    problem, output = labelled(CLASSES, 3)
    output = output.to(dtype).log_softmax(dim=-1)
    assert problem.describe_loss(output) == "negative log-likelihood"
    assert_close(problem.loss_of(output), F.nll_loss(output, CLASSES))


@pytest.mark.parametrize("y", [MULTI_HOT, MULTI_HOT.double(), MULTI_HOT.bool()])
def test_several_binary_labels_have_binary_cross_entropy(y: Tensor) -> None:
    problem, output = labelled(y, 3)
    assert problem.describe_loss(output) == "binary cross-entropy with logits"
    expected = F.binary_cross_entropy_with_logits(output, MULTI_HOT.double())
    assert_close(problem.loss_of(output), expected)
    assert problem.num_classes is None


@pytest.mark.parametrize("shape", [(8, 1), (8,)])
def test_one_column_of_logits_has_binary_cross_entropy(shape: tuple[int, ...]) -> None:
    problem, output = labelled(BINARY, 1)
    output = output.view(shape)
    assert problem.describe_loss(output) == "binary cross-entropy with logits"
    expected = F.binary_cross_entropy_with_logits(output.flatten(), BINARY.double())
    assert_close(problem.loss_of(output), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_real_targets_have_squared_error(dtype: torch.dtype) -> None:
    problem, output = labelled(REALS)
    output = output.to(dtype)
    assert problem.describe_loss(output) == "mean squared error"
    assert_close(problem.loss_of(output), F.mse_loss(output, REALS.to(dtype)))


def test_a_column_and_a_vector_of_targets_are_the_same() -> None:
    # Broadcasting (8,) against (8, 1) would compare every row with every target.
    problem, output = labelled(REALS[:, 0], 1)
    expected = (output.flatten() - REALS[:, 0]).square().mean()
    assert_close(problem.loss_of(output), expected)


def test_a_loss_may_be_given() -> None:
    problem, output = labelled(CLASSES, 5, loss=lambda out, y: (out[:, 0] - y).sum())
    assert_close(problem.loss_of(output), (output[:, 0] - CLASSES).sum())
    assert problem.describe_loss(output) == "<lambda>"
    named, _ = labelled(REALS, loss=nn.L1Loss())
    assert named.describe_loss(output) == "L1Loss"
    assert "loss=L1Loss" in repr(named)


def test_without_labels_there_is_no_loss() -> None:
    problem = Problem(
        gcn(), Data(x=random_graph().x, edge_index=torch.zeros(2, 0).long())
    )
    assert problem.loss_of(torch.zeros(8, 2)) is None
    assert problem.describe_loss(torch.zeros(8, 2)) == "none (no labels)"
    assert problem.num_classes is None
    assert "loss=none" in repr(problem)


def masked(problem: Problem, output: Tensor) -> list[int]:
    """Rows of the output on which the loss depends."""
    output = output.requires_grad_()
    loss = problem.loss_of(output)
    assert loss is not None
    (gradient,) = torch.autograd.grad(loss, output)
    return gradient.any(dim=1).nonzero().flatten().tolist()


def test_the_training_rows_enter_the_loss() -> None:
    data = random_graph()
    data.train_mask = torch.arange(8) < 3
    problem = Problem(gcn(), data)
    assert masked(problem, torch.randn(8, 2)) == [0, 1, 2]
    assert problem.notes == []


@pytest.mark.parametrize("mask", [torch.arange(8) > 5, (torch.arange(8) > 5).byte()])
def test_a_mask_may_be_a_tensor_or_a_name(mask: Tensor) -> None:
    data = random_graph()
    data.chosen, data.train_mask = mask, torch.arange(8) < 3
    for given in ("chosen", mask, mask.view(8, 1)):
        assert masked(Problem(gcn(), data, mask=given), torch.randn(8, 2)) == [6, 7]


def test_the_first_of_several_splits_is_used() -> None:
    data = random_graph()
    data.train_mask = torch.eye(8, 4, dtype=torch.bool)
    problem = Problem(gcn(), data)
    assert masked(problem, torch.randn(8, 2)) == [0]
    assert problem.notes == ["Used the first of 4 splits of the mask."]


@pytest.mark.parametrize(
    ("y", "rows"),
    [
        (torch.tensor([0, 1, -1, 0, 1, -1, 0, 1]), [0, 1, 3, 4, 6, 7]),
        (torch.tensor([[1.0, 2]] * 7 + [[torch.nan, 1]]), list(range(7))),
    ],
)
def test_rows_without_a_label_are_left_out(y: Tensor, rows: list[int]) -> None:
    problem, output = labelled(y)
    assert masked(problem, output) == rows
    expected = f"No train_mask: the loss uses all {len(rows)} labelled rows."
    assert problem.notes == [expected]


def test_a_target_may_be_a_tensor_or_a_name() -> None:
    data = random_graph()
    data.label = 1 - data.y
    output = torch.randn(8, 2)
    expected = F.cross_entropy(output, data.label)
    for given in ("label", data.label):
        assert_close(Problem(gcn(), data, target=given).loss_of(output), expected)


def test_the_representation_names_model_data_and_loss() -> None:
    problem = Problem(gcn(), random_graph(), mode="eval")
    assert repr(problem) == (
        "Problem(GCN, 8 nodes, 30 edges, loss=cross-entropy, mode=eval)"
    )


def test_replace_leaves_the_problem_alone() -> None:
    problem = Problem(gcn(), random_graph())
    model, data = gcn(), random_graph(9, seed=1)
    other = problem.replace(model, data)
    assert (other.model, other.data) == (model, data)
    assert problem.model is not model
    assert problem.data is not data
    assert other.run().shape == (9, 2)


def test_a_frozen_model_without_parameters_is_accepted() -> None:
    assert Problem(Echo(lambda x: x).requires_grad_(False), random_graph()).run().shape


def test_a_mean_of_a_batch_is_one_row_per_graph() -> None:
    data = Batch.from_data_list([path_graph(4), ring_graph(5)])
    data.y = torch.tensor([0, 1])
    problem = Problem(GCN(3, 4, num_layers=2), data, forward_fn=lambda *_: torch.eye(2))
    assert problem.loss_of(torch.eye(2)) is not None
