"""Stabilize: from a caller's model to a calibrated one and back."""

from __future__ import annotations

import copy
import itertools
import math
import re

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import GAT, GCN, GIN, GCN2Conv, GCNConv, GraphSAGE

import graphfathom as gf
from graphfathom.calibration import CalibrationError
from graphfathom.datasets import csbm
from graphfathom.nn.transition import Centered, Orthogonal, Scalar
from graphfathom.rewrite import RewriteError, unwrap
from graphfathom.verbs import before_after, stabilize
from tests.snapshots import differences, snapshot

DATA = csbm(60, 3, avg_degree=4, homophily=0.8, seed=0)
WIDTH = 12


def gcn(num_layers: int = 34, kind: type = GCN, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return kind(DATA.num_features, WIDTH, num_layers, out_channels=3, **options)


class HandWritten(torch.nn.Module):
    def __init__(self, num_layers: int = 34, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = [DATA.num_features, *[WIDTH] * (num_layers - 1)]
        self.convs = torch.nn.ModuleList(GCNConv(w, WIDTH) for w in widths)
        self.readout = torch.nn.Linear(WIDTH, 3)
        self.dropout = dropout

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = torch.relu(conv(x, edge_index))
            x = torch.nn.functional.dropout(x, self.dropout, self.training)
        return self.readout(x)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(gcn(dropout=0.5), id="gcn"),
        pytest.param(gcn(kind=GAT, act="tanh"), id="gat"),
        pytest.param(gcn(kind=GIN, act="gelu"), id="gin"),
        pytest.param(gcn(kind=GraphSAGE, norm="layer_norm"), id="sage"),
        pytest.param(gcn(norm="batch_norm", dropout=0.5), id="batch-norm"),
        pytest.param(HandWritten(dropout=0.5), id="hand-written"),
    ],
)
def test_the_network_is_stabilized_and_the_caller_keeps_his(
    model: torch.nn.Module,
) -> None:
    before = snapshot(model, DATA)
    deep = stabilize(model, DATA)
    assert not differences(before, snapshot(model, DATA))
    found = deep.calibration
    assert any(criteria.failures() for criteria in found.before)
    assert not any(criteria.failures() for criteria in found.after)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.parameters == (count, count)
    assert list(deep.state_dict()) == list(model.state_dict())
    twin = copy.deepcopy(model)
    twin.load_state_dict(deep.state_dict())
    deep.load_state_dict(model.state_dict())
    inside = unwrap(deep)
    assert type(inside) is type(model)
    assert repr(inside) == repr(model)
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            model.state_dict().values(), inside.state_dict().values(), strict=True
        )
    )
    outputs = [
        net.eval()(DATA.x, DATA.edge_index) for net in (copy.deepcopy(model), inside)
    ]
    assert torch.equal(*outputs)


def test_gradients_reach_every_layer() -> None:
    model = gcn(130)
    sizes = []
    for network in (model, stabilize(model, DATA)):
        out = network(DATA.x, DATA.edge_index)
        loss = torch.nn.functional.cross_entropy(out, DATA.y)
        weights = [conv.lin.weight for conv in list(network.convs)[1:-1]]
        norms = [float(g.norm()) for g in torch.autograd.grad(loss, weights)]
        sizes.append((min(norms), max(norms)))
    assert sizes[0][1] < 1e-15
    assert sizes[1][0] > 1e-5
    assert sizes[1][1] < 100 * sizes[1][0]


def test_before_is_the_network_as_it_is() -> None:
    model = gcn(20)
    deep = stabilize(model, DATA)
    x = torch.relu(model.convs[0](DATA.x, DATA.edge_index))
    first = x
    for conv in list(model.convs)[1:-1]:
        x = torch.relu(conv(x, DATA.edge_index))
    ratio = float((x.norm() / first.norm()).detach())
    assert deep.calibration.before[1].feature_ratio == pytest.approx(ratio, rel=1e-5)
    assert deep.calibration.before[1].recall == 0


def test_matrices_of_the_caller_are_taken() -> None:
    model = gcn()
    deep = stabilize(
        model, DATA, state=Orthogonal(seed=3), input=Scalar(), strength=0.75
    )
    assert isinstance(deep.state, Orthogonal)
    assert isinstance(deep.input, Scalar)
    assert deep.input.scale == pytest.approx(0.75 / math.sqrt(32))


def test_the_default_takes_the_mean_of_the_messages_off() -> None:
    assert isinstance(stabilize(gcn(), DATA).input, Centered)


def test_a_problem_is_taken() -> None:
    model = gcn()
    ours = stabilize(gf.Problem(model, DATA))
    assert ours.calibration == stabilize(model, DATA).calibration


def test_progress_and_words() -> None:
    said: list[str] = []
    deep = stabilize(gcn(), DATA, progress=said.append)
    assert all(text.startswith("strength ") for text in said)
    assert len(said) == len(deep.calibration.tried)
    text = str(deep.calibration)
    assert "before, train" in text
    assert "after, eval" in text
    assert re.search(r"strength +\d", text)


def test_a_lazy_model_must_have_been_run() -> None:
    torch.manual_seed(0)
    model = GCN(-1, WIDTH, 34, out_channels=3)
    with pytest.raises(ValueError, match=r"lazy width.*run the model once on the data"):
        stabilize(model, DATA)
    model(DATA.x, DATA.edge_index)
    assert not any(c.failures() for c in stabilize(model, DATA).calibration.after)


def test_double_precision_is_kept() -> None:
    data = DATA.clone()
    data.x = data.x.double()
    deep = stabilize(gcn().double(), data)
    assert deep(data.x, data.edge_index).dtype == torch.float64


def test_before_after_shows_both_networks() -> None:
    model = gcn()
    problem = gf.Problem(model, DATA)
    deep = stabilize(problem)
    report = before_after(problem, deep)
    assert "original" in report.observations.runs()
    assert report.verdict.name != "vanishing-gradients"
    (form,) = [f for f in report.findings if f.name == "state-space-form"]
    assert f"r = {deep.calibration.radius:.5g}" in form.title
    assert gf.Report.from_dict(report.to_dict()) == report
    original = report.observations.series("gradient.state", "original")[1]
    stabilized = report.observations.series("gradient.state")[1]
    assert original[0] < stabilized[0] - 3


class Twice(torch.nn.Module):
    """Two propagations in each block, which is a layer if its name is given."""

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.ModuleList(GCNConv(WIDTH, WIDTH) for _ in range(2))

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            for conv in self.inner:
                x = conv(x, edge_index).tanh()
            return x

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = torch.nn.Linear(DATA.num_features, WIDTH)
        self.blocks = torch.nn.ModuleList(self.Block() for _ in range(8))
        self.readout = torch.nn.Linear(WIDTH, 3)

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        x = self.encoder(x)
        for block in self.blocks:
            x = block(x, edge_index)
        return self.readout(x)


def test_before_after_takes_names_of_layers_in_the_original_network() -> None:
    problem = gf.Problem(Twice(), DATA)
    deep = stabilize(problem, layers="blocks.*")
    report = before_after(problem, deep, layers="blocks.*")
    assert report.layers == tuple(f"layer.blocks.{k}" for k in range(8))
    assert report.settings["controls"]["original"] == "8 layers"
    by_role = before_after(problem, deep)
    assert by_role.settings["controls"]["original"] == "16 layers"


def test_a_criterion_is_said_once_where_both_modes_agree() -> None:
    def evidence(dropout: float) -> tuple[str, ...]:
        problem = gf.Problem(gcn(dropout=dropout), DATA)
        report = before_after(problem, stabilize(problem, strength=1.0))
        (form,) = [f for f in report.findings if f.name == "state-space-form"]
        return form.evidence

    assert re.fullmatch(r"\(b\) gain, mean: \S+ before, \S+ after.", evidence(0.0)[3])
    apart = r"\S+ \(train mode\) and \S+ \(eval mode\)"
    assert re.fullmatch(
        rf"\(b\) gain, mean: {apart} before, {apart} after.", evidence(0.3)[3]
    )


def test_before_after_says_what_it_does() -> None:
    problem, said = gf.Problem(gcn(), DATA), []
    before_after(problem, stabilize(problem), progress=said.append)
    assert said[0] == "graph and data"
    assert said[-1] == "original network"


def test_before_after_needs_a_stabilized_network() -> None:
    model = gcn()
    with pytest.raises(TypeError, match="`deep` must be the result of stabilize"):
        before_after(gf.Problem(model, DATA), model)


def test_one_layer_has_no_step() -> None:
    with pytest.raises(RewriteError, match="no step"):
        stabilize(gcn(1), DATA)


def test_changing_widths_are_named() -> None:
    class Funnel(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (DATA.num_features, 12, 12, 8, 8, 3)
            pairs = itertools.pairwise(widths)
            self.convs = torch.nn.ModuleList(GCNConv(*pair) for pair in pairs)

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            for conv in self.convs:
                x = conv(x, edge_index).tanh()
            return x

    with pytest.raises(RewriteError, match=r"changes its width.*12 -> 8"):
        stabilize(Funnel(), DATA)


def test_a_network_with_a_state_is_refused_with_the_line_to_change() -> None:
    class Initial(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.Linear(DATA.num_features, 12)
            self.convs = torch.nn.ModuleList(GCN2Conv(12, 0.1) for _ in range(8))

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            x = x_0 = self.encoder(x)
            for conv in self.convs:
                x = conv(x, x_0, edge_index).relu()
            return x

    with pytest.raises(RewriteError, match=r"already carries a state.*x = x \+ step"):
        stabilize(Initial(), DATA, target=DATA.y)
    deep = stabilize(gcn(), DATA)
    with pytest.raises(RewriteError, match=r"already carries a state.*calibrate"):
        stabilize(deep, DATA)


def test_no_edges_no_messages() -> None:
    """GIN without weights on its own node has nothing to say on its neighbours."""

    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = torch.nn.ModuleList(
                GCNConv(w, 12, add_self_loops=False, bias=False)
                for w in [DATA.num_features, *[12] * 8]
            )
            self.encoder = torch.nn.Linear(DATA.num_features, DATA.num_features)
            self.readout = torch.nn.Linear(12, 3)

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            x = self.encoder(x) @ torch.eye(DATA.num_features, 12)
            for conv in list(self.convs)[1:]:
                x = conv(x, edge_index).relu()
            return self.readout(x)

    data = Data(x=DATA.x, y=DATA.y, edge_index=torch.empty(2, 0, dtype=torch.long))
    with pytest.raises(CalibrationError, match="messages are zero"):
        stabilize(Sum(), data)


def test_a_strength_out_of_reach_is_refused() -> None:
    with pytest.raises(CalibrationError, match="`strength` 1000 does not meet"):
        stabilize(gcn(), DATA, strength=1000.0)


def test_a_trained_state_beyond_one_warns_with_the_layers_until_overflow() -> None:
    with pytest.warns(UserWarning, match=r"\d+ layers"):
        gf.nn.GNNSSM(
            DATA.num_features, 12, 3, num_layers=8, state=Scalar(2.0, trainable=True)
        )
