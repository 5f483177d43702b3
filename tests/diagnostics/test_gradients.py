"""Gradients and gains against plain autograd, dense Jacobians and closed forms."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator

import pytest
import torch
from chains import ScaledChain, complete_graph, ring, scaled_chain
from checks import check_estimator
from networks import Chain
from problems import CATALOGUE, Case, Entry, State, random_graph
from references import align, float64
from torch import Tensor, nn
from torch_geometric.nn import GCN, GCNConv

from graphfathom.diagnostics.gradients import (
    gain_observations,
    gradient_observations,
    loss_gradient,
    sweep,
)
from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.linalg import Estimate
from graphfathom.problem import Problem

# torch's and PyG's own remarks on sparse matrices.
pytestmark = pytest.mark.filterwarnings("ignore:.*[Ss]parse")

EXACT = [entry for entry in CATALOGUE if not entry.match]
TYPICAL = [
    next(entry for entry in CATALOGUE if entry.name == name)
    for name in (
        "GCN",
        "GAT jk=cat",
        "GraphSAGE jk=max",
        "GCNII",
        "DeepGCN res+",
        "DeepGCN dense",
        "x = x + h",
        "shared conv",
        "GraphCON",
        "HeteroConv",
        "GCN batch norm",
    )
]

each = pytest.mark.parametrize("entry", EXACT, ids=lambda entry: entry.name)
typical = pytest.mark.parametrize("entry", TYPICAL, ids=lambda entry: entry.name)


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    """The group of the DistributedDataParallel entry ends with this file."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """That of the measures, whatever the default of the tests."""
    with float64():
        yield


@functools.cache
def traced(entry: Entry) -> tuple[Case, Trace]:
    """A network and its trace; no test changes either."""
    case = entry.case()
    return case, capture(case.problem())


def reference(case: Case, trace: Trace, k: int) -> tuple[State, Tensor]:
    """State k as leaves, and the output computed from them without the tracer.

    Earlier states, which a read-out may tap, are constants.
    """
    states = [tuple(t.detach() for t in s) for s in case.states(case.features)]
    tail = list(case.tail) if case.close is None else []
    leaves = states[k]
    if k == trace.num_layers:
        carried = trace.states[k].carried
        while tail and align(carried, leaves) is None:
            leaves = tuple(t.detach() for t in tail.pop(0)(*leaves))
    leaves = tuple(t.clone().requires_grad_() for t in leaves)
    states[k:] = [leaves]
    for function in case.maps[k:]:
        states.append(function(*states[-1]))
    if case.close is not None:
        return leaves, case.close(states)
    last = states[-1]
    for function in tail:
        last = function(*last)
    return leaves, last[0]


def pulled(output: Tensor, leaves: State) -> list[Tensor]:
    return list(
        torch.autograd.grad(
            output, leaves, retain_graph=True, materialize_grads=True, allow_unused=True
        )
    )


def log10_norm(tensors: list[Tensor]) -> float:
    return float(torch.cat([t.reshape(-1) for t in tensors]).norm().log10())


def values(rows: list[Observation], name: str) -> dict[int, float]:
    return dict(zip(*Observations(rows).series(name), strict=True))


@each
def test_gradient_of_each_state_is_that_of_plain_autograd(entry: Entry) -> None:
    case, trace = traced(entry)
    found = values(gradient_observations(trace), "gradient.state")
    assert list(found) == list(range(trace.num_layers + 1))
    for k, value in found.items():
        leaves, output = reference(case, trace, k)
        loss = trace.problem.loss_of(output)
        expected = log10_norm(pulled(loss, leaves))
        assert value == pytest.approx(expected, abs=1e-9), f"state {k}"


@each
def test_relative_gradients_compare_with_the_last_state(entry: Entry) -> None:
    rows = gradient_observations(traced(entry)[1])
    absolute = values(rows, "gradient.state")
    relative = values(rows, "gradient.state.relative")
    last = absolute[max(absolute)]
    known = math.isfinite(last)  # jk=max may take nothing from the last state
    expected = {k: v - last if known else math.nan for k, v in absolute.items()}
    assert relative == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    "name", ["GCN", "GAT jk=cat", "GCNII", "DeepGCN res+", "x = x + h", "HeteroConv"]
)
def test_gradient_of_weights_is_that_of_plain_autograd(name: str) -> None:
    case, trace = traced(next(entry for entry in CATALOGUE if entry.name == name))
    problem = case.problem()
    model = copy.deepcopy(problem.model).eval()
    problem.loss_of(problem.replace(model, problem.data).run()).backward()
    found = values(gradient_observations(trace), "gradient.weights")
    assert list(found) == list(range(1, trace.num_layers + 1))
    names = {id(p): name for name, p in trace.problem.model.named_parameters()}
    for k, value in found.items():
        own = {names[id(p)] for p in trace.segment(k).parameters}
        grads = {n: p.grad for n, p in model.named_parameters() if n in own}
        expected = log10_norm([g for g in grads.values() if g is not None])
        assert value == pytest.approx(expected, abs=1e-9)
        layer = trace.layers[k - 1]
        used = {n for n, p in model.named_parameters() if p.grad is not None}
        assert {n for n in used if n.startswith(f"{layer}.")} <= own


def test_a_shared_layer_has_one_gradient_for_each_of_its_calls() -> None:
    """As if each call had its own copy of the weights."""
    data, conv = random_graph(), GCNConv(4, 4)
    ends = nn.Linear(3, 4), nn.Linear(4, 2)
    shared = Chain([conv] * 3, *ends)
    apart = Chain([copy.deepcopy(conv) for _ in range(3)], *ends)
    found, expected = (
        gradient_observations(capture(Problem(model, data)))
        for model in (shared, apart)
    )
    assert found == expected
    total = torch.autograd.grad(
        Problem(shared, data).loss_of(shared(data.x, data.edge_index)),
        [*conv.parameters()],
    )
    weights = values(found, "gradient.weights")
    # The triangle inequality: the sum of the calls' gradients is the parameter's.
    assert 10 ** log10_norm(list(total)) <= sum(10**v for v in weights.values())


def test_a_layer_without_weights_has_no_gradient_of_them() -> None:
    entry = next(entry for entry in CATALOGUE if entry.name == "APPNP")
    rows = gradient_observations(traced(entry)[1])
    assert values(rows, "gradient.state")
    assert not values(rows, "gradient.weights")


@typical
def test_gain_is_the_scaled_frobenius_norm_of_the_dense_jacobian(entry: Entry) -> None:
    case, trace = traced(entry)
    rows = gain_observations(trace, torch.Generator().manual_seed(0), num_samples=256)
    table = Observations(rows)
    for k in range(trace.num_layers + 1):
        leaves, output = reference(case, trace, k)
        squares = [
            sum(float(g.square().sum()) for g in pulled(entry_, leaves))
            for entry_ in output.reshape(-1)
        ]
        size = sum(leaf.numel() for leaf in leaves)
        expected = 0.5 * math.log10(sum(squares) / size) if sum(squares) else -math.inf
        row = table.get("gain_to_output", f"state:{k}")
        if math.isinf(expected):
            assert (row.value, row.stderr) == (expected, 0), f"state {k}"
            continue
        # Four standard errors: one false alarm in 16,000.
        assert abs(row.value - expected) < 4 * row.stderr, f"state {k}"
        assert row.stderr < 0.05


def test_standard_error_of_the_gain_covers_the_truth() -> None:
    case, trace = traced(TYPICAL[0])
    leaves, output = reference(case, trace, 1)
    squares = [float(pulled(o, leaves)[0].square().sum()) for o in output.reshape(-1)]
    truth = 0.5 * math.log10(sum(squares) / leaves[0].numel())

    def estimate(generator: torch.Generator) -> Estimate:
        rows = gain_observations(trace, generator, num_samples=16)
        row = Observations(rows).get("gain_to_output", "state:1")
        return Estimate(row.value, row.stderr)

    check_estimator(estimate, truth, num_seeds=60)


@pytest.mark.parametrize(("scale", "depth"), [(0.1, 330), (1.0, 50), (8.0, 330)])
def test_a_deep_product_is_its_exact_logarithm(scale: float, depth: int) -> None:
    r"""On a complete graph :math:`A^L = A`, so the product is :math:`c^L A`.

    At c = 0.1 the product itself underflows, at 8 its square overflows.
    """
    trace = scaled_chain(depth, scale, complete_graph(4, width=1))
    states = values(gradient_observations(trace), "gradient.state")
    generator = torch.Generator().manual_seed(0)
    gains = values(gain_observations(trace, generator, 2), "gain_to_output")
    # The last factor A c maps the cotangent into the image of A, where A is 1.
    expected = math.log10(scale) * (depth - 1)
    for found in (states, gains):
        assert found[0] - found[depth - 1] == pytest.approx(expected, abs=1e-8)


def test_a_thousand_layers_read_their_exact_logarithm() -> None:
    """Without edges A is the identity, and the whole product a multiple of it."""
    data = complete_graph(3)
    data.edge_index = data.edge_index[:, :0]
    depth, scale = 1000, 10**-0.1663
    trace = scaled_chain(depth, scale, data)
    expected = {k: -0.1663 * (depth - k) for k in range(depth + 1)}
    relative = values(gradient_observations(trace), "gradient.state.relative")
    assert relative == pytest.approx(expected, abs=1e-9)
    assert round(relative[0], 1) == -166.3
    assert (10 ** relative[0]) ** 2 == 0, "plain squares underflow"
    generator = torch.Generator().manual_seed(0)
    gains = values(gain_observations(trace, generator, 2), "gain_to_output")
    assert gains[0] - gains[depth] == pytest.approx(-166.3, abs=1e-9)


def test_gain_of_a_linear_chain_on_a_ring_is_a_sum_of_eigenvalues() -> None:
    r""":math:`\|J\|_F^2 / \dim = c^{2m} \operatorname{mean}_i \lambda_i^{2m}`."""
    n, depth, scale = 12, 3, 0.7
    trace = scaled_chain(depth, scale, ring(n))
    table = Observations(
        gain_observations(trace, torch.Generator().manual_seed(0), num_samples=400)
    )
    angles = 2 * math.pi * torch.arange(n) / n
    eigenvalues = (1 + 2 * angles.cos()) / 3
    for k in range(depth + 1):
        m = depth - k
        expected = scale ** (2 * m) * float((eigenvalues ** (2 * m)).mean())
        row = table.get("gain_to_output", f"state:{k}")
        error = abs(row.value - 0.5 * math.log10(expected))
        assert error < 4 * row.stderr


def test_without_rescaling_gradients_underflow_as_in_training() -> None:
    data = complete_graph(4, width=1).apply(
        lambda t: t.float() if t.is_floating_point() else t
    )
    model = ScaledChain(1, 160, 0.5).float()
    trace = capture(Problem(model, data), dtype=None)
    states = [data.x.clone().requires_grad_()]
    for _ in range(160):
        states.append(model.conv(states[-1], data.edge_index))
    loss = (states[-1] - data.y).square().mean()
    expected = torch.autograd.grad(loss, states)
    raw = list(sweep(trace, loss_gradient(trace), rescale=False))
    assert [arrival.state for arrival in raw] == list(range(160, -1, -1))
    for arrival in raw:
        assert arrival.log10_scale == 0
        torch.testing.assert_close(arrival.tensors[0], expected[arrival.state])
    assert not raw[-1].tensors[0].any(), "float32 ends at 2^-149"
    kept = list(sweep(trace, loss_gradient(trace)))[-1]
    assert kept.log10_norm(trace) == pytest.approx(
        raw[1].log10_norm(trace) + 159 * math.log10(0.5), abs=1e-3
    )


def dead_chain(dead: int, depth: int = 4) -> Trace:
    """A ReLU network whose layer ``dead`` is switched off on every node."""
    model = GCN(3, 4, depth, 2)
    for conv in model.convs:
        conv.bias.data.fill_(1.0)
    model.convs[dead - 1].bias.data.fill_(-100.0)
    return capture(Problem(model, random_graph()))


def test_an_exact_zero_is_minus_infinity() -> None:
    trace = dead_chain(2)
    rows = gradient_observations(trace)
    for name in ("gradient.state", "gradient.state.relative"):
        found = values(rows, name)
        assert [found[k] for k in (0, 1)] == [-math.inf] * 2
        assert all(math.isfinite(found[k]) for k in (2, 3, 4))
    weights = values(rows, "gradient.weights")
    assert weights[1] == weights[2] == -math.inf
    gains = gain_observations(trace, torch.Generator().manual_seed(0))
    assert values(gains, "gain_to_output")[0] == -math.inf
    assert Observations(gains).get("gain_to_output", "state:0").stderr == 0


class SquareRoot(nn.Module):
    """Finite forward, but the gradient at 0 is NaN: 0 times infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(GCNConv(3, 3) for _ in range(4))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for k, conv in enumerate(self.convs):
            x = conv(x, edge_index)
            x = x.tanh() + (0 * x).sqrt() if k == 1 else x.tanh()
        return x


def test_nan_is_carried_back_from_where_it_arises() -> None:
    model = SquareRoot()
    data = random_graph()
    data.y = torch.ones(data.num_nodes, 3)
    trace = capture(Problem(model, data))
    rows = gradient_observations(trace)
    for name in ("gradient.state", "gradient.state.relative"):
        found = values(rows, name)
        assert [math.isnan(found[k]) for k in range(5)] == [True] * 2 + [False] * 3
    generator = torch.Generator().manual_seed(0)
    gains = values(gain_observations(trace, generator), "gain_to_output")
    assert [math.isnan(gains[k]) for k in range(5)] == [True] * 2 + [False] * 3


def test_without_labels_there_is_no_gradient() -> None:
    data = random_graph()
    del data.y
    trace = capture(Problem(GCN(3, 4, 2, 2), data))
    assert loss_gradient(trace) is None
    assert gradient_observations(trace) == []
    assert gain_observations(trace, torch.Generator().manual_seed(0))


def test_a_loss_that_ignores_the_output_has_a_zero_gradient() -> None:
    problem = Problem(
        GCN(3, 4, 2, 2), random_graph(), loss=lambda output, target: torch.zeros(())
    )
    rows = gradient_observations(capture(problem))
    assert set(values(rows, "gradient.state").values()) == {-math.inf}
    relative = values(rows, "gradient.state.relative").values()
    assert all(math.isnan(value) for value in relative), "0 / 0"


def test_the_loss_is_that_of_the_selected_rows() -> None:
    data = random_graph()
    mask = torch.arange(data.num_nodes) < 3
    model = GCN(3, 4, 2, 2)
    trace = capture(Problem(model, data, mask=mask))
    output = model(data.x, data.edge_index).detach().requires_grad_()
    loss = nn.functional.cross_entropy(output[mask], data.y[mask])
    (expected,) = torch.autograd.grad(loss, output)
    torch.testing.assert_close(loss_gradient(trace), expected)
    assert not loss_gradient(trace)[~mask].any()


def test_units_and_dtypes_are_written_down() -> None:
    trace = capture(
        Problem(
            GCN(3, 4, 2, 2).float(),
            random_graph().apply(lambda t: t.float() if t.is_floating_point() else t),
        ),
        dtype=torch.float64,
    )
    generator = torch.Generator().manual_seed(0)
    rows = gradient_observations(trace) + gain_observations(trace, generator)
    assert {(row.unit, row.dtype) for row in rows} == {("log10", "float64")}
    assert {row.name for row in rows if row.stderr is not None} == {"gain_to_output"}


def test_one_seed_gives_one_table_and_no_global_randomness() -> None:
    _, trace = traced(TYPICAL[0])
    before = torch.get_rng_state()
    one, two = (
        gain_observations(trace, torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert one == two
    assert torch.equal(before, torch.get_rng_state())
