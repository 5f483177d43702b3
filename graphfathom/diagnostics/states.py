"""Find the tensors that separate a recorded network into layers.

At any moment of the forward pass, the values computed so far that are still needed
separate what has happened from what will: every path from the input to the output
passes through one of them. Between two message passings the *state* is the smallest
such set, the latest of equal ones. So a residual sum, GCNII's :math:`x_0`, an edge
state, a velocity or delayed features join the state by themselves, and no gradient
passes by.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from graphfathom.diagnostics.events import Event
from graphfathom.diagnostics.recorder import READOUTS, Recording

__all__ = ["Plan", "find_states"]


@dataclass(frozen=True)
class Plan:
    """Where a network is cut.

    A frame is a set of values that separates the network: frame 0 holds the input
    features, frames 1 to L + 1 the states 0 to L, the last frame the output. Segment j
    maps frame j to frame j + 1.
    """

    frames: tuple[tuple[int, ...], ...]
    times: tuple[int, ...]
    """Number of calls that precede each frame."""
    taps: tuple[frozenset[int], ...]
    """Values of each frame that only the read-out uses (jumping knowledge)."""
    layers: tuple[str, ...]
    """Name of each layer."""


class _Liveness:
    """Which values are needed at a given time, and whether they can be replaced."""

    def __init__(self, recording: Recording) -> None:
        values = recording.values
        self.values = values
        self.end = len(recording.calls)
        self.last_use = [-1] * len(values)
        needed = [False] * len(values)
        if recording.output_value is not None:
            needed[recording.output_value] = True
            self.last_use[recording.output_value] = self.end
        for index in reversed(range(len(values))):
            if needed[index]:
                for parent in values[index].parents:
                    needed[parent] = True
                    use = max(self.last_use[parent], values[index].call)
                    self.last_use[parent] = use
        kept = [i for i in range(len(values)) if needed[i] and recording.sourced[i]]
        self.relevant = sorted(kept, key=lambda i: values[i].call)
        self._calls = [values[i].call for i in self.relevant]
        self.counts = [0] * (self.end + 2)
        self.fixed = [0] * (self.end + 2)
        for index in self.relevant:
            value = values[index]
            for counter in (self.counts, *([self.fixed] * (value.position is None))):
                counter[value.call + 1] += 1
                counter[self.last_use[index] + 1] -= 1
        for counter in (self.counts, self.fixed):
            for time in range(1, len(counter)):
                counter[time] += counter[time - 1]

    def at(self, time: int) -> tuple[int, ...]:
        """Values computed before a time and needed at or after it."""
        return tuple(
            index
            for index in self.relevant[: bisect_left(self._calls, time)]
            if time <= self.last_use[index]
        )

    def made(self, start: int, stop: int) -> list[int]:
        """Values that calls ``start`` to ``stop - 1`` computed, in call order."""
        first, last = (bisect_left(self._calls, time) for time in (start, stop))
        return self.relevant[first:last]

    def narrowest(self, first: int, last: int) -> int | None:
        """The latest time in a range with the fewest live values, all replaceable."""
        times = [t for t in range(first, last + 1) if not self.fixed[t]]
        return min(times, key=lambda t: (self.counts[t], -t), default=None)


def find_states(recording: Recording) -> Plan | str | None:
    """Cut a recorded network between its message passings.

    Returns:
        The plan, None if there is no message passing on the way from the features to
        the output, or a clause that says why the network cannot be cut.
    """
    liveness = _Liveness(recording)
    groups = _group(recording.events, recording, liveness)
    if not groups:
        return None
    times = _times(groups, recording, liveness)
    if isinstance(times, str):
        return times
    frames = _order([liveness.at(time) for time in times[:-1]], recording)
    frames.append(() if recording.output_value is None else (recording.output_value,))
    return Plan(
        frames=tuple(frames),
        times=tuple(times),
        taps=_taps(frames, times, recording),
        layers=tuple(map(_name, groups)),
    )


def _times(
    groups: list[list[Event]], recording: Recording, liveness: _Liveness
) -> list[int] | str:
    """Number of calls before each frame."""
    starts = [group[0].start for group in groups]
    stops = [max(event.stop for event in group) for group in groups]
    first = starts[0]
    if groups[0][0].role == "operation":
        first = min(first, next(_readouts(recording, liveness, 0)))
    # Integer features become a value where they are embedded, not before.
    begin = recording.values[liveness.relevant[0]].call + 1
    if begin > first:
        return "the features are embedded inside its first layer"
    chosen = [liveness.narrowest(begin, first)]
    for group, stop, limit in zip(groups[:-1], stops, starts[1:], strict=False):
        if group[0].role == "operation":
            limit = min(limit, next(_readouts(recording, liveness, stop)))
        chosen.append(liveness.narrowest(stop, limit))
    known = [time for time in chosen if time is not None]
    if len(known) == len(chosen):
        chosen.append(_last_time(groups[-1], stops[-1], known, recording, liveness))
    names = ["the input", *map(_name, groups)]
    for time, name in zip(chosen, names, strict=False):
        if time is None:
            return f"the tensor after {name} is changed in place and cannot be cut"
    return [0, *(time for time in chosen if time is not None), liveness.end]


def _last_time(
    group: list[Event],
    stop: int,
    times: list[int],
    recording: Recording,
    liveness: _Liveness,
) -> int | None:
    """When the last state is complete and the read-out has not begun.

    A cut inside the last layer is recognised by what it leaves behind: more live
    values than the layers before it (``x + lin(conv(x))``), or one that each layer
    reads and this one has not (``conv(h) + lin(x)``). Then the next read-out is tried.
    """
    before = [len(liveness.at(time)) for time in times]
    growth = max(0, before[-1] - before[-2]) if len(before) > 2 else 0
    start = max(event.block_stop for event in group)
    taps = [call for call in recording.readouts if call >= stop]
    time = None
    for limit in [*taps[:1]] or _readouts(recording, liveness, start):
        time = liveness.narrowest(stop, limit)
        if taps or time is None:
            break
        live = liveness.at(time)
        unread = any(_reads(i, [*times[-3:], time], recording) for i in live)
        if len(live) <= before[-1] + growth and not unread:
            break
    return time


def _reads(index: int, times: list[int], recording: Recording) -> bool:
    """Whether a value is used in each of some intervals but the last."""
    calls = [v.call for v in recording.values if index in v.parents]
    used = [
        any(begin <= call < end for call in calls) for begin, end in pairwise(times)
    ]
    return len(used) > 2 and all(used[:-1]) and not used[-1]


def _name(group: list[Event]) -> str:
    return " + ".join(event.name for event in group)


def _order(
    frames: list[tuple[int, ...]], recording: Recording
) -> list[tuple[int, ...]]:
    """Each frame with its own values first: node features, the newest first."""

    def rank(index: int) -> tuple[bool, int]:
        rows = recording.values[index].shape[-2:-1]
        return not rows or rows[0] not in recording.num_nodes, -index

    ordered = [frames[0]]
    for j in range(1, len(frames)):
        before = set(frames[j - 1]) if j > 1 else set()
        new = sorted((i for i in frames[j] if i not in before), key=rank)
        ordered.append((*new, *(i for i in frames[j] if i in before)))
    return ordered


def _taps(
    frames: list[tuple[int, ...]], times: list[int], recording: Recording
) -> tuple[frozenset[int], ...]:
    """Carried values that no later layer uses."""
    last_layer_use = dict.fromkeys((i for frame in frames for i in frame), -1)
    for value in recording.values:
        if value.call < times[-2]:
            for parent in value.parents & last_layer_use.keys():
                use = max(last_layer_use[parent], value.call)
                last_layer_use[parent] = use
    taps: list[frozenset[int]] = [frozenset()]
    for j in range(1, len(frames) - 1):
        carried = set(frames[j]) & set(frames[j - 1]) if j > 1 else set()
        taps.append(frozenset(i for i in carried if last_layer_use[i] < times[j]))
    return (*taps, frozenset())


def _readouts(recording: Recording, liveness: _Liveness, first: int) -> Iterator[int]:
    """Calls that may begin a read-out, from a time on, and the end."""
    values = recording.values
    has_rows = [
        bool(set(value.shape[-2:-1]) & set(recording.num_nodes)) for value in values
    ]
    returns = [False] * len(values)  # to the nodes, as the mean in a LayerNorm does
    for index in reversed(liveness.relevant):
        for parent in values[index].parents:
            returns[parent] |= returns[index] or has_rows[index]
    for index in liveness.relevant:
        call = values[index].call
        if call < first:
            continue
        pooled = not has_rows[index] and not returns[index]
        if recording.calls[call] in READOUTS or pooled:
            yield call
    yield liveness.end


def _group(
    events: list[Event], recording: Recording, liveness: _Liveness
) -> list[list[Event]]:
    """Layers: an event that needs one of the current layer's opens the next layer."""
    events = [
        inner
        for event in events
        for inner in _open(event, recording, liveness)
        if liveness.made(inner.start, inner.stop)
    ]
    return _chain(events, recording, liveness)


def _chain(
    events: list[Event], recording: Recording, liveness: _Liveness
) -> list[list[Event]]:
    values = recording.values
    stamps: dict[int, int] = {}  # value -> the last layer that it needs
    groups: list[list[Event]] = []
    clock = events[0].start if events else 0
    for event in events:
        for index in liveness.made(clock, event.start):
            above = (stamps.get(parent, 0) for parent in values[index].parents)
            stamps[index] = max(above, default=0)
        inside = liveness.made(event.start, event.stop)
        needs = {stamps.get(p, 0) for i in inside for p in values[i].parents}
        if not groups or len(groups) in needs:
            groups.append([])
        groups[-1].append(event)
        stamps |= dict.fromkeys(inside, len(groups))
        clock = max(clock, event.stop)
    return groups


def _open(event: Event, recording: Recording, liveness: _Liveness) -> list[Event]:
    """The propagations inside a module that iterates, else the module itself.

    A module iterates (APPNP, AntiSymmetricConv, GatedGraphConv, SGConv) if between two
    of its propagations only one tensor of its own is alive. ChebConv, TAGConv and
    MixHopConv collect several powers and are one layer.
    """
    if event.role != "layer" or not event.inner:
        return [event]
    children = _layer_children(event)
    groups = _chain(children, recording, liveness)
    if len(groups) < 2:
        return [event]
    for before, after in pairwise(groups):
        time = liveness.narrowest(max(e.stop for e in before), after[0].start)
        live = liveness.at(time) if time is not None else ()
        own = [i for i in live if recording.values[i].call >= event.start]
        rows = [recording.values[i].shape[-2:-1] for i in own]
        if len(own) != 1 or not rows[0] or rows[0][0] not in recording.num_nodes:
            return [event]
    opened = [e for child in children for e in _open(child, recording, liveness)]
    for inner in opened:
        inner.block_stop = max(inner.block_stop, event.stop, event.block_stop)
    return opened


def _layer_children(event: Event) -> list[Event]:
    """Nearest layers and propagations inside an event, in call order."""
    found: list[Event] = []
    for child in event.inner:
        found += [child] if child.role != "module" else _layer_children(child)
    return found
