"""The refit of the last layer, against closed forms and the model's own module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from graphs import random_graph, two_components
from stubborn import Locked, gcn
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GAT, GCN, GCNConv, global_mean_pool

from graphfathom.diagnostics.affine_head import RefitError
from graphfathom.diagnostics.last_layer import Refit, refit_head
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.problem import Problem

GAMMA = 5e-4


class Net(nn.Module):
    """Two convolutions and a read-out."""

    def __init__(self, readout: nn.Module, width: int = 5) -> None:
        super().__init__()
        self.convs = nn.ModuleList([GCNConv(3, width), GCNConv(width, width)])
        self.readout = readout

    def hidden(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, edge_index).tanh()
        return x

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.readout(self.hidden(x, edge_index))


def traced(model: nn.Module, data: Data | None = None, **options: object) -> Trace:
    return capture(Problem(model, data or random_graph(12), **options))


def regression(data: Data) -> Data:
    data.y = torch.randn(data.num_nodes, 2)
    return data


def ridge(features: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Mean squared error of the best head with a bias, and its weight, densely."""
    ones = torch.ones(len(features), 1)
    inputs = torch.cat([features, ones], 1)
    penalty = torch.eye(inputs.size(1)) * GAMMA
    penalty[-1, -1] = 0
    scale = 2 / y.numel()  # the derivative of the mean of the squares
    solution = torch.linalg.solve(
        scale * inputs.T @ inputs + penalty, scale * inputs.T @ y
    )
    loss = (inputs @ solution - y).square().mean()
    return loss.item(), solution[:-1].T


@pytest.mark.parametrize("seed", range(3))
def test_squared_errors_have_the_ridge_solution(seed: int) -> None:
    torch.manual_seed(seed)
    model, data = Net(nn.Linear(5, 2)), regression(random_graph(12))
    refit = refit_head(traced(model, data))
    loss, weight = ridge(model.hidden(data.x, data.edge_index).detach(), data.y)
    assert refit.loss == pytest.approx(loss, rel=1e-9)
    found = refit.problem.model.get_parameter("readout.weight")
    torch.testing.assert_close(found, weight, rtol=1e-6, atol=1e-8)
    assert (refit.layer, refit.frozen, refit.converged) == (3, 0.0, True)
    assert refit.gradient < 1e-8
    assert set(refit.names) == {"readout.weight", "readout.bias"}


def test_the_last_convolution_is_a_head_too() -> None:
    model, data = gcn(), regression(two_components())
    refit = refit_head(traced(model, data))
    h = data.x
    for conv in model.convs[:-1]:
        h = conv(h, data.edge_index).tanh()
    one = GCNConv(4, 4, bias=False)
    one.lin.weight = nn.Parameter(torch.eye(4))
    loss, weight = ridge(one(h, data.edge_index).detach(), data.y)
    assert refit.layer == 3
    assert refit.loss == pytest.approx(loss, rel=1e-9)
    found = refit.problem.model.get_parameter("convs.2.lin.weight")
    torch.testing.assert_close(found, weight, rtol=1e-6, atol=1e-8)


def trained(features: Tensor, y: Tensor, mask: Tensor) -> float:
    """Cross-entropy behind a linear head that torch trains."""
    head = nn.Linear(features.size(1), 2)
    optimizer = torch.optim.LBFGS(
        head.parameters(),
        max_iter=2000,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(features)[mask], y[mask])
        loss = loss + GAMMA / 2 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return F.cross_entropy(head(features)[mask], y[mask]).item()


class LogNet(Net):
    """The same network that returns log-probabilities."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return super().forward(x, edge_index).log_softmax(dim=-1)


@pytest.mark.parametrize(
    ("kind", "given"), [(Net, None), (LogNet, None), (LogNet, F.nll_loss)]
)
def test_cross_entropy_has_the_loss_of_a_trained_head(
    kind: type[Net], given: Callable[[Tensor, Tensor], Tensor] | None
) -> None:
    data = random_graph(20)
    data.train_mask = torch.arange(20) % 3 > 0
    model = kind(nn.Linear(5, 2))
    refit = refit_head(traced(model, data, loss=given))
    hidden = model.hidden(data.x, data.edge_index).detach()
    assert refit.loss == pytest.approx(trained(hidden, data.y, data.train_mask))
    loss = refit.problem.loss_of(refit.problem.run())
    assert loss is not None
    assert loss.item() == pytest.approx(refit.loss, rel=1e-9)
    again = refit_head(capture(refit.problem))
    assert again.start < 1e-2  # the gradient of the loss balances the penalty
    assert again.loss == pytest.approx(refit.loss, rel=1e-6)


def test_columns_that_the_loss_ignores_stay() -> None:
    model, data = Net(nn.Linear(5, 2, bias=False)), regression(random_graph(12))
    trace = traced(model, data, loss=lambda out, y: (out - y)[:, 0].square().mean())
    refit = refit_head(trace)
    weight = refit.problem.model.get_parameter("readout.weight")
    # Only the penalty sees the second column.
    assert weight[1].norm().item() < 1e-4 < weight[0].norm().item()
    unpenalised = refit_head(trace, weight_decay=0.0).problem.model
    kept = unpenalised.get_parameter("readout.weight")[1]
    assert torch.equal(kept, model.readout.weight[1])


def pooled(model: Net, batch: Data) -> Tensor:
    hidden = model.hidden(batch.x, batch.edge_index)
    return model.readout(global_mean_pool(hidden, batch.batch))


def test_a_read_out_of_graphs() -> None:
    graphs = [random_graph(seed=seed) for seed in range(6)]
    batch = Batch.from_data_list(graphs)
    batch.y = torch.randn(6, 2)
    model = Net(nn.Linear(5, 2))
    refit = refit_head(traced(model, batch, forward_fn=pooled))
    hidden = model.hidden(batch.x, batch.edge_index)
    features = global_mean_pool(hidden, batch.batch).detach()
    assert refit.loss == pytest.approx(ridge(features, batch.y)[0], rel=1e-9)


def test_of_a_read_out_of_several_layers_the_last_is_taken() -> None:
    readout = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    refit = refit_head(traced(Net(readout)))
    assert set(refit.names) == {"readout.2.weight", "readout.2.bias"}


def seen(norm: nn.BatchNorm1d) -> nn.BatchNorm1d:
    """A norm that has seen batches: the model is judged as in evaluation."""
    norm.num_batches_tracked += 1
    norm.running_var *= 2
    return norm


def test_a_matrix_before_fixed_statistics_is_a_head() -> None:
    readout = nn.Sequential(nn.Linear(5, 2), seen(nn.BatchNorm1d(2)))
    refit = refit_head(traced(Net(readout)))
    assert set(refit.names) == {"readout.0.weight", "readout.0.bias"}


class Shared(nn.Module):
    """One convolution, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(3, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv(self.conv(x, edge_index).tanh(), edge_index)


class Constant(nn.Module):
    """Nothing to refit."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return x.index_add(0, edge_index[1], x[edge_index[0]])


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "attention": (lambda: GAT(3, 4, 2, 2), "not affine in the parameters of `convs.1`"),
    "a norm of the batch": (
        lambda: Net(nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2))),
        "not affine in the parameters of the read-out",
    ),
    "probabilities": (
        lambda: Net(nn.Sequential(nn.Linear(5, 2), nn.Softmax(dim=1))),
        "not affine",
    ),
    "shared weights": (Shared, "`conv` shares parameters"),
    "a lock": (lambda: Locked(3, 4, 3, 2), "cannot be copied"),
}


@pytest.mark.parametrize(("build", "match"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_refitted(build: Callable[[], nn.Module], match: str) -> None:
    with pytest.raises(RefitError, match=match):
        refit_head(traced(build()))


def test_without_labels_parameters_or_finite_numbers() -> None:
    data = random_graph()
    del data.y
    with pytest.raises(RefitError, match="no labels"):
        refit_head(traced(gcn(), data))
    trace = capture(Problem(Constant(), random_graph()), "")
    with pytest.raises(RefitError, match="no parameters"):
        refit_head(trace)
    model = gcn()
    with torch.no_grad():
        model.convs[-1].bias[0] = torch.inf
    with pytest.raises(RefitError, match="not finite"):
        refit_head(traced(model))
    trace = capture(Problem(gcn().bfloat16(), bfloat16(random_graph())), dtype=None)
    with pytest.raises(RefitError, match="bfloat16"):
        refit_head(trace)


def bfloat16(data: Data) -> Data:
    data.x = data.x.bfloat16()
    return data


def test_frozen_heads_are_refitted_and_said() -> None:
    model, free = gcn(), gcn()
    free.load_state_dict(model.state_dict())
    model.convs[0].requires_grad_(False)
    model.convs[-1].lin.requires_grad_(False)
    refit, expected = refit_head(traced(model)), refit_head(traced(free))
    assert refit.loss == pytest.approx(expected.loss, rel=1e-9)
    assert refit.start == pytest.approx(expected.start, rel=1e-9)
    assert refit.frozen == 8 / 10
    copied = dict(refit.problem.model.named_parameters())
    assert copied["convs.2.lin.weight"].requires_grad
    assert not copied["convs.0.lin.weight"].requires_grad
    model.requires_grad_(False)
    assert refit_head(traced(model)).frozen == 1.0


def test_layers_by_name_are_found_again() -> None:
    model = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 2)])
    problem = Problem(
        model, random_graph(), forward_fn=lambda m, d: m[1](m[0](d.x).tanh())
    )
    model[1].requires_grad_(False)
    recapture = partial(capture, layers="[01]")
    refit = refit_head(recapture(problem), recapture=recapture)
    assert (refit.layer, refit.frozen) == (2, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_and_the_trace_stay_as_they_are(dtype: torch.dtype) -> None:
    model, data = gcn().to(dtype).train(), random_graph()
    data.x = data.x.to(dtype)
    model(data.x, data.edge_index).sum().backward()
    before = copy.deepcopy(model.state_dict())
    grads = [p.grad.clone() for p in model.parameters()]
    trace = traced(model, data)
    pulled = trace.segment(3).vjp((torch.ones(8, 2),), with_parameters=True)
    state = torch.get_rng_state()
    refit_head(trace)
    assert torch.equal(torch.get_rng_state(), state)
    again = trace.segment(3).vjp((torch.ones(8, 2),), with_parameters=True)
    for one, other in zip(pulled, again, strict=True):
        assert all(map(torch.equal, one, other))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(
        torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True)
    )
    assert model.training
    assert all(p.requires_grad and p.dtype == dtype for p in model.parameters())
    with trace.running() as problem, torch.no_grad():
        assert torch.equal(problem.run(), trace.output)


def test_a_budget_too_small_is_said() -> None:
    def spent(**budget: float) -> Refit:
        torch.manual_seed(0)
        return refit_head(traced(GCN(3, 8, 2, 2), random_graph(12)), **budget)

    full = spent()
    assert full.converged
    for short in (spent(max_iterations=1), spent(max_seconds=0.0)):
        assert short.iterations <= 1
        assert not short.converged
        assert short.loss > full.loss
