"""StateSpaceConv and HeteroSSM around PyG's layers, against the equation."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from conv_catalogue import CONVS, ENTRIES, WIDTH, ConvEntry, make_data, mlp
from graphs import hetero_graph
from references import float64
from torch import Tensor, nn

from graphfathom.nn.state_space import Gates, HeteroSSM, StateSpaceConv, advance
from graphfathom.nn.transition import (
    Centered,
    Dense,
    Diagonal,
    Orthogonal,
    Rotation,
    Scalar,
    Transition,
)

REFUSED = {
    "SignedConv": "must keep the shape of the state",
    "DNAConv": "must keep the shape of the state",
    "MixHopConv": "must keep the shape of the state",
    "WLConv": "must be the state, floats of shape",
}
"""Convolutions of the catalogue that change width or take no floats."""
TUPLES = {"PANConv"}
SAME = [e for e in ENTRIES if not e.hetero and e.name not in REFUSED]
HETERO = [e for e in ENTRIES if e.hetero]


def build(entry: ConvEntry) -> nn.Module:
    """The first convolution of the catalogue's network, or a skip."""
    torch.manual_seed(0)
    try:
        with float64():
            return entry.make(0).eval()
    except (ImportError, ModuleNotFoundError) as error:
        pytest.skip(str(error))


class Untanh(nn.Module):
    """Lets the catalogue's calls, which end in tanh, return what the layer returns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.output: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.output = self.layer(*args, **kwargs)
        return self.output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


def output_of(layer: nn.Module, entry: ConvEntry, state: Any, data: Any) -> Any:
    spy = Untanh(layer)
    entry.call(spy, state, data)
    return spy.output


@pytest.mark.parametrize("entry", SAME, ids=lambda e: e.name)
def test_every_convolution_that_keeps_the_width(entry: ConvEntry) -> None:
    layer, data = build(entry), entry.data()
    x = torch.randn(data.num_nodes, WIDTH)
    state, input = Orthogonal(0.9), Dense(seed=1)
    wrapped = StateSpaceConv(layer, state, input).eval()
    try:
        expected = output_of(layer, entry, (x, x), data)
    except ImportError as error:
        pytest.skip(str(error))
    found = output_of(wrapped, entry, (x, x), data)
    if entry.name in TUPLES:
        torch.testing.assert_close(found[1].to_dense(), expected[1].to_dense())
        expected, found = expected[0], found[0]
    by_hand = x @ state.matrix().mT + expected @ input.matrix().mT
    torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize("name", REFUSED)
def test_convolutions_of_another_width_are_refused(name: str) -> None:
    entry, data = CONVS[name], CONVS[name].data()
    wrapped = StateSpaceConv(build(entry))
    x = entry.lift(torch.randn(data.num_nodes, WIDTH))
    with pytest.raises((TypeError, ValueError), match=REFUSED[name]):
        output_of(wrapped, entry, (x,), data)


@pytest.mark.parametrize("entry", HETERO, ids=lambda e: e.name)
def test_every_convolution_of_dictionaries(entry: ConvEntry) -> None:
    layer, data = build(entry), hetero_graph()
    xs = {k: torch.randn(data[k].num_nodes, WIDTH) for k in ("paper", "author")}
    state = {"paper": Scalar(0.5), "author": Rotation()}
    wrapped = HeteroSSM(layer, state, Scalar(0.1), persistent=Scalar(0.2)).eval()
    messages = layer(xs, data.edge_index_dict)
    found = wrapped(xs, data.edge_index_dict, initial=xs)
    for kind, x in xs.items():
        expected = state[kind](x) + 0.1 * messages[kind] + 0.2 * x
        torch.testing.assert_close(found[kind], expected)


@pytest.fixture
def graph() -> Any:
    return make_data()


def features(graph: Any, width: int = WIDTH) -> Tensor:
    return torch.randn(graph.num_nodes, width)


TRANSITIONS: tuple[Callable[[], Transition], ...] = (
    lambda: Scalar(1.0),
    lambda: Scalar(0.9),
    lambda: Scalar(0.9, trainable=True),
    lambda: Centered(0.4),
    lambda: Diagonal(scale=0.7),
    lambda: Orthogonal(0.8),
    lambda: Rotation(0.7),
    lambda: Dense(),
)


@pytest.mark.parametrize("state", TRANSITIONS)
@pytest.mark.parametrize("input", TRANSITIONS)
@pytest.mark.parametrize("persistent", [False, True])
def test_the_step_is_the_equation(
    state: Callable[[], Transition], input: Callable[[], Transition], persistent: bool
) -> None:
    x, message, first = torch.randn(3, 5, WIDTH).unbind()
    parts = [part().bind(WIDTH) for part in (state, input)]
    extra = Rotation(0.5, channels=WIDTH)
    source = extra(first) if persistent else None
    expected = x @ parts[0].matrix().mT + message @ parts[1].matrix().mT
    if persistent:
        expected = expected + first @ extra.matrix().mT
    found = advance(x, message, *parts, source)
    torch.testing.assert_close(found, expected)


def test_identity_of_the_default(graph: Any) -> None:
    conv, x = pyg.GCNConv(WIDTH, WIDTH), features(graph)
    found = StateSpaceConv(conv)(x, graph.edge_index)
    torch.testing.assert_close(found, x + conv(x, graph.edge_index))


def test_a_state_of_nothing_is_the_layer_alone(graph: Any) -> None:
    conv, x = pyg.GCNConv(WIDTH, WIDTH), features(graph)
    found = StateSpaceConv(conv, Scalar(0.0))(x, graph.edge_index)
    torch.testing.assert_close(found, conv(x, graph.edge_index))


def test_convex_step_with_persistent_input(graph: Any) -> None:
    """H+ = (1 - g) H + g ((1 - a) F(H) + a H0)."""
    g, a, conv = 0.25, 0.1, pyg.GCNConv(WIDTH, WIDTH)
    x, first = features(graph), features(graph)
    parts = Scalar(1 - g), Scalar(g * (1 - a))
    layer = StateSpaceConv(conv, *parts, persistent=Scalar(g * a))
    message = conv(x, graph.edge_index)
    expected = (1 - g) * x + g * ((1 - a) * message + a * first)
    torch.testing.assert_close(layer(x, graph.edge_index, initial=first), expected)


def test_concatenated_heads_keep_the_width(graph: Any) -> None:
    conv, x = pyg.TransformerConv(WIDTH, WIDTH // 2, heads=2), features(graph)
    found = StateSpaceConv(conv, input=Scalar(0.1))(x, graph.edge_index)
    torch.testing.assert_close(found, x + 0.1 * conv(x, graph.edge_index))


def test_attention_weights_are_handed_on(graph: Any) -> None:
    conv, x = pyg.GATConv(WIDTH, WIDTH), features(graph)
    out, (edges, weights) = StateSpaceConv(conv)(
        x, graph.edge_index, return_attention_weights=True
    )
    torch.testing.assert_close(out, x + conv(x, graph.edge_index))
    assert edges.size(1) == weights.size(0)


def test_bipartite_pair_updates_the_targets(graph: Any) -> None:
    conv = pyg.SAGEConv((WIDTH, WIDTH), WIDTH)
    pair = features(graph), features(graph)[:3]
    edges = torch.tensor([[5, 6, 7], [0, 1, 2]])
    found = StateSpaceConv(conv, Scalar(0.5))(pair, edges)
    torch.testing.assert_close(found, 0.5 * pair[1] + conv(pair, edges))


class Backwards(nn.Module):
    """A layer whose first argument is not the state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = pyg.GCNConv(WIDTH, WIDTH)

    def forward(self, edge_index: Tensor, h: Tensor, initial: float = 1.0) -> Tensor:
        return initial * self.conv(h, edge_index)


def test_the_state_may_be_any_argument(graph: Any) -> None:
    layer, x = Backwards(), features(graph)
    expected = x + 2 * layer(graph.edge_index, x)
    for argument in (1, "h"):
        wrapped = StateSpaceConv(layer, argument=argument)
        keywords = {"edge_index": graph.edge_index, "h": x, "initial": 2.0}
        torch.testing.assert_close(wrapped(**keywords), expected)
    wrapped = StateSpaceConv(layer, argument=1)
    torch.testing.assert_close(wrapped(graph.edge_index, x, initial=2.0), expected)


def test_first_argument_by_name(graph: Any) -> None:
    layer, x = StateSpaceConv(pyg.GCNConv(WIDTH, WIDTH)), features(graph)
    by_name = layer(x=x, edge_index=graph.edge_index)
    torch.testing.assert_close(by_name, layer(x, graph.edge_index))


@pytest.mark.filterwarnings("ignore:There exist node types")
def test_types_without_messages_keep_their_state() -> None:
    conv = pyg.HeteroConv({("a", "to", "b"): pyg.SAGEConv((3, 2), 2)})
    xs = {"a": torch.randn(2, 3), "b": torch.randn(2, 2)}
    edges = {("a", "to", "b"): torch.tensor([[0], [1]])}
    found = HeteroSSM(conv, Scalar(0.5), Scalar(0.1))(xs, edges)
    torch.testing.assert_close(found["a"], 0.5 * xs["a"])
    expected = 0.5 * xs["b"] + 0.1 * conv(xs, edges)["b"]
    torch.testing.assert_close(found["b"], expected)


# Gates --------------------------------------------------------------------------------


def test_gates_multiply_state_and_message(graph: Any) -> None:
    conv, x = pyg.GCNConv(WIDTH, WIDTH), features(graph)
    layer = StateSpaceConv(conv, Rotation(0.9), Dense(), gates=True)
    plain = StateSpaceConv(conv, layer.state, layer.input)
    layer(x, graph.edge_index)
    gates = layer.gates
    nn.init.normal_(gates.state.weight)
    keep, take = gates(x)
    expected = keep * layer.state(x) + take * layer.input(conv(x, graph.edge_index))
    torch.testing.assert_close(layer(x, graph.edge_index), expected)
    count = sum(p.numel() for p in layer.parameters())
    extra = count - sum(p.numel() for p in plain.parameters())
    assert extra == 2 * (WIDTH * WIDTH + WIDTH)


def test_gates_start_open() -> None:
    keep, take = (gate.detach() for gate in Gates(WIDTH)(torch.randn(3, WIDTH)))
    assert float(keep.min()) ** 1000 > 0.7
    assert float(take.min()) > 0.85


# Checkpoints --------------------------------------------------------------------------


class Net(nn.Module):
    """Two layers, with and without the wrapper."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module] = lambda conv: conv):
        super().__init__()
        layers = [pyg.GATConv(WIDTH, WIDTH), pyg.BatchNorm(WIDTH)]
        self.convs = nn.ModuleList([wrap(layer) for layer in layers])


def wrap_in(
    **kwargs: Callable[[], Transition],
) -> Callable[[nn.Module], StateSpaceConv]:
    return lambda layer: StateSpaceConv(
        layer, **{name: make() for name, make in kwargs.items()}
    )


def through_a_file(state_dict: Any) -> Any:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    first, second = list(a.parameters()), list(b.parameters())
    assert len(first) == len(second) > 0
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))


FIXED = {
    "state": lambda: Orthogonal(0.9, seed=5, channels=WIDTH),
    "input": lambda: Dense(seed=7, channels=WIDTH),
}
LAZY = {"state": lambda: Orthogonal(), "input": lambda: Dense()}


def test_keys_are_those_of_the_layer() -> None:
    assert list(Net(wrap_in(**FIXED)).state_dict()) == list(Net().state_dict())
    alone = StateSpaceConv(pyg.GATConv(WIDTH, WIDTH), gates=False)
    assert list(alone.state_dict()) == list(pyg.GATConv(WIDTH, WIDTH).state_dict())


def test_unwrapped_checkpoint_loads_into_the_wrapped_network() -> None:
    plain, wrapped = Net(), Net(wrap_in(**FIXED))
    before = wrapped.convs[0].state.matrix()
    wrapped.load_state_dict(through_a_file(plain.state_dict()))
    assert_same_weights(plain, wrapped)
    assert torch.equal(wrapped.convs[0].state.matrix(), before)


def test_wrapped_checkpoint_loads_into_the_unwrapped_network() -> None:
    plain, wrapped = Net(), Net(wrap_in(**FIXED))
    plain.load_state_dict(through_a_file(wrapped.state_dict()))
    assert_same_weights(plain, wrapped)


@pytest.mark.parametrize("parts", [FIXED, LAZY])
def test_round_trip_restores_the_transitions(parts: Any) -> None:
    wrapped = Net(wrap_in(**FIXED))
    wrapped.convs[1].state.set_scale(0.123)
    other = Net(wrap_in(**parts))
    other.load_state_dict(through_a_file(wrapped.state_dict()))
    assert_same_weights(wrapped, other)
    for conv, twin in zip(wrapped.convs, other.convs, strict=True):
        for name in ("state", "input"):
            found, expected = getattr(twin, name), getattr(conv, name)
            assert torch.equal(found.matrix(), expected.matrix())
            assert found.scale == expected.scale


def test_trained_parts_are_in_the_checkpoint() -> None:
    def wrap(layer: nn.Module) -> nn.Module:
        state = Scalar(0.9, WIDTH, trainable=True)
        return StateSpaceConv(layer, state, gates=True)

    wrapped, other = Net(wrap), Net(wrap)
    keys = [key for key in wrapped.state_dict() if "state_space" in key]
    assert "convs.0.state_space.state.weight" in keys
    assert "convs.1.state_space.gates.input.bias" in keys
    with torch.no_grad():
        for p in wrapped.parameters():
            p.add_(torch.rand_like(p) - 0.9)
    other.load_state_dict(through_a_file(wrapped.state_dict()))
    assert_same_weights(wrapped, other)


def test_a_missing_weight_is_still_reported() -> None:
    wrapped = Net(wrap_in(**FIXED))
    state = Net().state_dict()
    del state["convs.0.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*convs.0.layer.bias"):
        wrapped.load_state_dict(state)


def test_another_kind_of_transition_is_refused() -> None:
    wrapped = Net(wrap_in(**FIXED))
    message = r"`convs.0.state` is Scalar and was saved as Orthogonal: build the layer"
    with pytest.raises(RuntimeError, match=message):
        Net(wrap_in()).load_state_dict(wrapped.state_dict())
    more = Net(wrap_in(persistent=lambda: Scalar(0.1)))
    with pytest.raises(RuntimeError, match=r"has the transitions persistent, which `c"):
        Net(wrap_in()).load_state_dict(more.state_dict())


def test_checkpoint_of_dictionaries() -> None:
    entry = CONVS["HeteroConv"]
    parts = {"state": {"paper": Scalar(0.5), "author": Rotation(channels=WIDTH)}}
    plain, wrapped = build(entry), HeteroSSM(build(entry), **parts)
    assert list(plain.state_dict()) == list(wrapped.state_dict())
    other = HeteroSSM(build(entry), {"paper": Scalar(0.1), "author": Rotation(seed=3)})
    other.load_state_dict(through_a_file(wrapped.state_dict()))
    assert other.state["paper"].scale == 0.5
    assert torch.equal(other.state["author"].angles, wrapped.state["author"].angles)
    plain.load_state_dict(wrapped.state_dict())


# As a module --------------------------------------------------------------------------


def test_no_parameters_are_added() -> None:
    count = sum(p.numel() for p in Net(wrap_in(**FIXED)).parameters())
    assert count == sum(p.numel() for p in Net().parameters())


def test_transitions_can_be_shared(graph: Any) -> None:
    state = Dense()
    layers = [StateSpaceConv(pyg.GCNConv(WIDTH, WIDTH), state) for _ in range(3)]
    x = features(graph)
    for layer in layers:
        x = layer(x, graph.edge_index)
    assert all(layer.state is state for layer in layers)
    twins = copy.deepcopy(nn.ModuleList(layers))
    assert twins[0].state is twins[2].state is not state


def test_reset_reaches_the_layer() -> None:
    layer = StateSpaceConv(pyg.GCNConv(WIDTH, WIDTH), Dense(), gates=True)
    layer(torch.randn(3, WIDTH), torch.tensor([[0, 1], [1, 2]]))
    results = []
    for _ in range(2):
        with torch.no_grad():
            for tensor in (*layer.parameters(), *layer.buffers()):
                tensor.add_(1.0)
        torch.manual_seed(3)
        layer.reset_parameters()
        results.append([tensor.clone() for tensor in layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    torch.testing.assert_close(
        layer.state.matrix(), Dense(channels=WIDTH).matrix(), rtol=0, atol=0
    )
    stack = StateSpaceConv(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()))
    before = stack.layer[0].weight.clone()
    stack.reset_parameters()
    assert not torch.equal(stack.layer[0].weight, before)


def test_autocast_keeps_the_state_in_float32(graph: Any) -> None:
    x = features(graph).float()
    for make in TRANSITIONS:
        layer = StateSpaceConv(pyg.GCNConv(WIDTH, WIDTH), make(), Dense()).float()
        layer(x, graph.edge_index)
        exact = layer.state(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = layer(x, graph.edge_index)
            message = found - layer.input(layer.layer(x, graph.edge_index))
        assert found.dtype == torch.float32
        torch.testing.assert_close(message, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gates", [False, True])
def test_compiles_with_dynamic_shapes(graph: Any, gates: bool) -> None:
    conv = pyg.GCNConv(WIDTH, WIDTH)
    layer = StateSpaceConv(conv, Orthogonal(0.9), Centered(0.1), gates=gates)
    x = features(graph)
    expected = layer(x, graph.edge_index)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, graph.edge_index), expected)
    smaller = compiled(x[:4], torch.tensor([[0, 1], [1, 2]]))
    assert smaller.shape == (4, WIDTH)


def test_functional_call(graph: Any) -> None:
    layer = StateSpaceConv(pyg.GCNConv(WIDTH, WIDTH), Rotation(channels=WIDTH))
    x = features(graph)
    weights = dict(layer.named_parameters())
    found = torch.func.functional_call(layer, weights, (x, graph.edge_index))
    torch.testing.assert_close(found, layer(x, graph.edge_index))


def test_repr() -> None:
    layer = HeteroSSM(mlp(), {"a": Scalar(1), "b": Scalar(2)}, persistent=Scalar(0.5))
    assert "(persistent): Scalar(0.5)" in repr(layer)
    assert "(b): Scalar(2)" in repr(layer)


# Bad input ----------------------------------------------------------------------------


def test_changing_width_is_refused_with_the_line_to_change(graph: Any) -> None:
    layer = StateSpaceConv(pyg.GCNConv(WIDTH, 2 * WIDTH))
    message = (
        r"GCNConv must keep the shape of the state, \(8, 4\). It returns \(8, 8\): it "
        r"can be the encoder before or the read-out after the state-space layers: `x = "
        r"layer\(x, ...\)` without StateSpaceConv"
    )
    with pytest.raises(ValueError, match=message):
        layer(features(graph), graph.edge_index)


class Returns(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:1], r"\(1, 4\): its rows must be those of the state"),
        (
            lambda x: (x, x),
            r"returns 2 tensors of the state's shape, .*one: `return se",
        ),
        (lambda x: {"x": x}, r"must return a tensor, or a tuple .* Got dict: wrap it"),
        (lambda x: (None, x), r"must return a tensor, .* Got NoneType: wrap it"),
        (lambda x: (), r"must return a tensor, .* Got tuple: wrap it"),
    ],
)
def test_outputs_that_are_no_message_are_refused(
    function: Callable[[Tensor], Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        StateSpaceConv(Returns(function))(torch.randn(5, WIDTH))


def test_states_that_are_none_are_refused(graph: Any) -> None:
    layer = StateSpaceConv(Backwards())
    with pytest.raises(
        TypeError,
        match=r"Argument 0 of Backwards must be the state, .*"
        r"Got torch.int64 \(2, 30\): embed or encode it",
    ):
        layer(graph.edge_index, features(graph))
    plain = StateSpaceConv(pyg.GCNConv(WIDTH, WIDTH))
    with pytest.raises(
        TypeError, match=r"Got NoneType: pass `argument=`, the position"
    ):
        plain(edge_index=graph.edge_index)
    with pytest.raises(TypeError, match=r"use HeteroSSM for a layer of dictionaries"):
        plain({"paper": features(graph)}, {})


def test_persistent_input_needs_the_first_state(graph: Any) -> None:
    layer = StateSpaceConv(pyg.GCNConv(WIDTH, WIDTH), persistent=Scalar(0.1))
    with pytest.raises(ValueError, match=r"`initial` must be the first state .*x_0\)`"):
        layer(features(graph), graph.edge_index)
    entry, data = CONVS["HeteroConv"], hetero_graph()
    xs = {k: torch.randn(data[k].num_nodes, WIDTH) for k in ("paper", "author")}
    hetero = HeteroSSM(build(entry), persistent=Scalar(0.1))
    with pytest.raises(ValueError, match=r"`initial` must be the dictionary of first"):
        hetero(xs, data.edge_index_dict)


def test_arguments_of_the_wrong_kind_are_refused() -> None:
    conv = pyg.GCNConv(WIDTH, WIDTH)
    with pytest.raises(TypeError, match=r"`layer` must be a torch.nn.Module. Got type"):
        StateSpaceConv(pyg.GCNConv)
    with pytest.raises(TypeError, match=r"`layer` already is in state-space form"):
        StateSpaceConv(StateSpaceConv(conv))
    with pytest.raises(TypeError, match=r"Got float: pass `state=Scalar\(0.5\)`"):
        StateSpaceConv(conv, 0.5)
    with pytest.raises(TypeError, match=r"`input` must be a Transition. Got Linear: "):
        StateSpaceConv(conv, input=nn.Linear(4, 4))


def test_bad_dictionaries_are_refused() -> None:
    x = {"a": torch.randn(2, WIDTH)}
    with pytest.raises(
        TypeError, match=r"must be a dictionary .* Got Tensor: use State"
    ):
        HeteroSSM(mlp())(x["a"])
    with pytest.raises(TypeError, match=r"must return a dictionary of messages"):
        HeteroSSM(Returns(lambda x: x["a"]))(x)
    with pytest.raises(ValueError, match=r"returns messages for b, which has no state"):
        HeteroSSM(Returns(lambda x: {"b": x["a"]}))(x)
    with pytest.raises(ValueError, match=r"must keep the shape of the state of 'a', "):
        HeteroSSM(Returns(lambda x: {"a": x["a"][:, :2]}))(x)
    with pytest.raises(ValueError, match=r"`state` must have a .* none for 'a': add"):
        HeteroSSM(Returns(lambda x: x), {"b": Scalar(1.0)})(x)
    two = {"a": torch.randn(2, 3), "b": torch.randn(2, 4)}
    with pytest.raises(ValueError, match=r"Dense is made for 3 channels. Got 4: give"):
        HeteroSSM(Returns(lambda x: x), Dense())(two)


def test_growing_states_are_warned_about() -> None:
    conv = pyg.GCNConv(WIDTH, WIDTH)
    with pytest.warns(UserWarning, match=r"modulus 1.5 > 1: the state overflows"):
        StateSpaceConv(conv, Scalar(1.5, WIDTH, trainable=True))
    lazy = StateSpaceConv(conv, Scalar(1.5, trainable=True))
    with pytest.warns(UserWarning, match=r"modulus 1.5 > 1: the state overflows"):
        lazy(torch.randn(3, WIDTH), torch.tensor([[0], [1]]))
    trained = StateSpaceConv(conv, Scalar(1.0, WIDTH, trainable=True)).train()
    with torch.no_grad():
        trained.state.weight.fill_(1.25)
    with pytest.warns(UserWarning, match=r"modulus 1.25 > 1"):
        trained.eval()


def test_inputs_may_be_large() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = StateSpaceConv(mlp(), input=Scalar(5.0, WIDTH, trainable=True))
        layer.eval()(torch.randn(3, WIDTH))
