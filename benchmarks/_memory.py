"""How much memory a piece of work takes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile


def resident(field: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: this script needs Linux.")


def forget_peak() -> None:
    """Start ``VmHWM`` anew at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def grown(run: Callable[[], Any]) -> int:
    """Bytes by which this process is larger at its highest than before."""
    forget_peak()
    before = resident("VmRSS")
    run()
    return max(resident("VmHWM") - before, 0)


def peak(run: Callable[[], None]) -> int:
    """Bytes that tensors hold at most beyond those they held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    assert found.profiler is not None
    assert found.profiler.kineto_results is not None
    events = found.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return max(accumulate(size for _, size in sorted(changes, key=itemgetter(0))))
