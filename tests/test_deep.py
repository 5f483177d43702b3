"""The deep measures of a diagnosis: prices, limits, and what cannot be measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from command_line import OWN, replace_diagnosis, run
from graphs import one_node, random_graph, two_components
from problems import CATALOGUE
from snapshots import differences, snapshot
from stubborn import Locked, Noisy, SinglePrecision, gcn
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GAT, GCN, GCNConv, TopKPooling

import graphfathom as gf
from graphfathom.diagnostics import (
    densities,
    distances,
    linearisation,
    predictions,
    stationarity_bounds,
)
from graphfathom.diagnostics.report import Report
from graphfathom.problem import Problem
from graphfathom.verbs.deep import MAX_SECONDS

STAGES = (
    "densities of singular values",
    "singular values of all layers together",
    "sensitivities by distance",
    "predictions of theory",
    "linearisation of errors",
)
BOUND = "bounds of stationary gradients"
"""The stage that says of most networks which hypothesis does not hold."""
ROWS = (
    "edge_of_chaos",
    "product_singular_value.1",
    "sensitivity.model",
    "theory.feature_norm",
    "error.linearisation",
)


def diagnose(model: Any, data: Any = None, **options: Any) -> Report:
    return gf.diagnose(model, data, controls="none", deep=True, **options)


def deep_notes(report: Report) -> list[str]:
    beginnings = tuple(
        f"{word} {stage}" for word in ("No", "Left out:") for stage in STAGES
    )
    return [note for note in report.notes if note.startswith(beginnings)]


def test_every_measure_is_in_the_table() -> None:
    report = diagnose(gcn(), random_graph())
    assert set(ROWS) <= set(report.observations.names())
    assert set(STAGES) <= set(report.cost)
    assert deep_notes(report) == []


def test_without_being_asked_nothing_is_deep() -> None:
    report = gf.diagnose(gcn(), random_graph(), controls="none")
    assert not set(ROWS) & set(report.observations.names())
    assert not set(STAGES) & set(report.cost)


def test_the_other_measures_stay_what_they_are() -> None:
    model = gcn()
    plain, deep = (
        gf.diagnose(model, random_graph(), controls="none", deep=asked).observations
        for asked in (False, True)
    )
    assert {*plain} < {*deep}


def test_each_price_is_said_before_the_measure_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []

    def measure(*args: Any, real: Any, stage: str) -> Any:
        assert said[-1].startswith(f"{stage}: ")
        said.append(f"measured {stage}")
        return real(*args)

    for module, name, stage in (
        (densities, "density_observations", STAGES[0]),
        (densities, "product_observations", STAGES[1]),
        (distances, "distance_observations", STAGES[2]),
        (predictions, "prediction_observations", STAGES[3]),
        (linearisation, "linearisation_observations", STAGES[4]),
        (stationarity_bounds, "bound_observations", BOUND),
    ):
        replaced = partial(measure, real=getattr(module, name), stage=stage)
        monkeypatch.setattr(module, name, replaced)
    diagnose(gcn(), random_graph(), progress=said.append)
    done = [text.removeprefix("measured ") for text in said if "measured" in text]
    assert done == [*STAGES, BOUND]
    prices = [text for text in said if "products with a layer, about" in text]
    assert len(prices) == len(done)
    # Three layers: each takes 2 x 20 products for 4 probes, a check and its zeros.
    assert prices[0].startswith(f"{STAGES[0]}: 492 products with a layer, about ")
    assert said.index("price of a product") < said.index(prices[0])


def test_what_takes_too_long_is_left_out() -> None:
    said: list[str] = []
    report = diagnose(gcn(), random_graph(), max_seconds=1e-9, progress=said.append)
    assert not set(ROWS) & set(report.observations.names())
    assert [note.partition(". They")[0] for note in deep_notes(report)] == [
        f"Left out: {stage}" for stage in STAGES
    ]
    assert all(note.endswith("`max_seconds` is 1e-09.") for note in deep_notes(report))
    assert not [text for text in said if text.startswith(STAGES)]


def test_only_what_takes_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(densities, "density_products", lambda trace: 10**12)
    report = diagnose(gcn(), random_graph())
    (note,) = deep_notes(report)
    assert note.startswith(
        "Left out: densities of singular values. They would take 1,0"
    )
    assert set(ROWS[1:]) <= set(report.observations.names())


@pytest.mark.parametrize("limit", [0, -1.0, math.nan, -math.inf])
@pytest.mark.parametrize("deep", [False, True])
def test_a_limit_that_is_none_is_refused(limit: float, deep: bool) -> None:
    with pytest.raises(
        ValueError, match=r"`max_seconds` must be > 0.* Got .*: for none"
    ):
        gf.diagnose(gcn(), random_graph(), deep=deep, max_seconds=limit)


def test_no_limit() -> None:
    report = diagnose(gcn(), random_graph(), max_seconds=math.inf)
    assert deep_notes(report) == []


@pytest.mark.parametrize(
    "make", [gcn, lambda: Locked(3, 4, 3, 2), lambda: GAT(3, 4, 3, 2)]
)
def test_model_and_data_stay_as_they_are(make: Callable[[], nn.Module]) -> None:
    model, data = make(), random_graph()
    model(data.x, data.edge_index).sum().backward()
    before = snapshot(model, data)
    diagnose(model, data)
    assert differences(before, snapshot(model, data)) == []


def test_one_seed_one_table() -> None:
    model, data = gcn(), random_graph(40)
    first, second, other = (
        diagnose(model, data, seed=seed).observations.to_csv() for seed in (0, 0, 1)
    )
    assert first == second
    assert first != other


class Pooled(nn.Module):
    """Half of the nodes are left behind the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.near = gf.nn.GNNSSM(3, 4, 4, num_layers=2)
        self.pool = TopKPooling(4, 0.5)
        self.far = gf.nn.GNNSSM(4, 4, 2, num_layers=2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x, edge_index, *_ = self.pool(self.near(x, edge_index), edge_index)
        return self.far(x, edge_index).mean(0, keepdim=True)


class Half(nn.Module):
    """Insists on half precision."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.convs = nn.ModuleList([GCNConv(3, 4), GCNConv(4, 2)]).to(dtype)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x.to(self.dtype), edge_index).tanh()
        return x


def spoilt(value: float) -> GCN:
    """The weights of the second layer are no numbers, or wild ones."""
    model = GCN(3, 4, num_layers=3, out_channels=2, act=None)
    model.convs[1].lin.weight.data.fill_(value)
    return model


def cast(dtype: torch.dtype, data: Data | None = None) -> Data:
    data = random_graph() if data is None else data
    data.x = data.x.to(dtype)
    return data


def labelled(label: int) -> Data:
    data = random_graph()
    data.y = torch.tensor([label])
    return data


def entry(name: str) -> Problem:
    return next(e for e in CATALOGUE if e.name == name).case().problem()


UNLINEAR = "No linearisation of errors: no layer is act(P X W)"

STRANGE: dict[str, tuple[Callable[[], Problem], tuple[str, ...]]] = {
    "one node": (lambda: Problem(gcn(), one_node()), ()),
    "one layer": (lambda: Problem(gcn(1), random_graph()), ()),
    "graph level": (
        lambda: entry("graph level"),
        ("No predictions of theory: no layer", UNLINEAR),
    ),
    "two components": (lambda: Problem(gcn(), two_components()), ()),
    "two types": (
        lambda: entry("HeteroConv"),
        (
            "No sensitivities by distance: Sensitivity between",
            "No predictions of",
            "No linearisation of errors: they need labels and one edge_index",
        ),
    ),
    "two states": (lambda: entry("GraphCON"), (UNLINEAR,)),
    "edge states": (
        lambda: entry("edge states"),
        ("No predictions of theory: no", UNLINEAR),
    ),
    "batch norm": (lambda: entry("GCN batch norm"), ()),
    "attention": (
        lambda: entry("GAT"),
        ("No predictions of theory: no layer is", UNLINEAR),
    ),
    "no second derivative": (
        lambda: entry("custom function once"),
        (
            "No densities of singular values: The derivative of `convs.0`",
            "No singular values of all layers together: The derivative of `convs.0`",
            "No predictions of theory: no layer is act(P X W)",
            UNLINEAR,
        ),
    ),
    "changed in place": (lambda: entry("x.add_(h)"), ()),
    "does not repeat": (lambda: Problem(gcn(kind=Noisy), random_graph()), ()),
    "cannot be copied": (lambda: Problem(Locked(3, 4, 3, 2), random_graph()), ()),
    "single": (lambda: Problem(SinglePrecision(), cast(torch.float32)), ()),
    "half": (
        lambda: Problem(Half(torch.bfloat16), cast(torch.bfloat16)),
        (
            "No singular values of all layers together: rounding",
            "No predictions of",
            UNLINEAR,
        ),
    ),
    "pooled": (
        lambda: Problem(Pooled(), labelled(1)),
        ("No sensitivities by distance: State 4 must have one row", UNLINEAR),
    ),
    "nan": (lambda: Problem(spoilt(math.nan), random_graph()), ()),
    "infinite": (lambda: Problem(spoilt(math.inf), random_graph()), ()),
    "huge": (lambda: Problem(spoilt(1e200), random_graph()), ()),
    "zero": (lambda: Problem(spoilt(0.0), random_graph()), ()),
}


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
@pytest.mark.parametrize("name", STRANGE)
def test_what_cannot_be_measured_is_a_note(name: str) -> None:
    make, beginnings = STRANGE[name]
    report = diagnose(make())
    notes = deep_notes(report)
    assert len(notes) == len(beginnings)
    for note, beginning in zip(notes, beginnings, strict=True):
        assert note.startswith(beginning)
    again = Report.from_dict(report.to_dict())
    assert again.observations.to_csv() == report.observations.to_csv()


def test_a_measure_that_fails_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> Any:
        raise ValueError("reasons.")

    monkeypatch.setattr(densities, "product_observations", fail)
    report = diagnose(gcn(), random_graph())
    assert deep_notes(report) == ["No singular values of all layers together: reasons."]
    assert {ROWS[0], *ROWS[2:]} <= set(report.observations.names())


@pytest.mark.usefixtures("workplace")
def test_options_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = replace_diagnosis(monkeypatch)
    for line in ("", " --deep", " --deep --max-seconds 5"):
        assert run(OWN + line, capsys)[0] == 0
    found = [(call["deep"], call["max_seconds"]) for call in calls]
    assert found == [(False, MAX_SECONDS), (True, MAX_SECONDS), (True, 5.0)]


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("limit", ["0", "-3", "nan"])
def test_a_limit_that_is_none_is_a_wrong_command(
    limit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(f"{OWN} --deep --max-seconds={limit}", capsys)
    assert (code, out) == (2, "")
    assert "`--max-seconds` must be > 0. Got " in err


@pytest.mark.usefixtures("workplace")
def test_a_deep_diagnosis_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("graphfathom.plotting.figures", lambda report: {})
    line = f"{OWN} --layers 4 --hidden 4 --controls none --deep"
    code, out, err = run(line, capsys)
    assert code == 0
    said = [line.removeprefix("graphfathom: ") for line in err.splitlines()]
    for stage in STAGES:
        (price,) = [text for text in said if text.startswith(f"{stage}: ")]
        assert "products with a layer, about" in price
    assert out.endswith("Report written to report/report.html\n")
    assert set(ROWS) <= set(Report.load("report").observations.names())
    _, out, err = run(f"{line} --max-seconds 1e-9", capsys)
    assert not [text for text in err.splitlines() if "products with" in text]
    notes = deep_notes(Report.load("report"))
    assert [note.partition(".")[0] for note in notes] == [
        f"Left out: {stage}" for stage in STAGES
    ]
