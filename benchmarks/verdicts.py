"""How often a diagnosis is right: cases whose disease is known, labels that are earned.

Command: ``python benchmarks/verdicts.py --split held-out --seed S --count 260`` (about
an hour on two cores). Stop it whenever you like: finished runs lie in
``runs/verdicts/`` and are skipped, several commands share the work, ``--table`` prints
what there is. Expected: at least 95 % right, no healthy network called sick.

A grammar draws disease, severity, architecture, graph, depth and seed. The label is
earned: the case and its repaired twin, which differs by nothing but the disease, are
trained with Adam for the same 100 epochs and tested at the epoch with the best
validation accuracy. 10 points or more below the twin is sick, 2 or less is healthy
whatever was drawn, and what lies between is counted and not scored. A healthy case is
compared with two layers of the same architecture, and not scored if it is worse by more
than 2 points. A sick case is right if the first finding is one that ``DISEASES`` names
for it, a healthy one if no finding is a warning or critical.

Where the first finding advises what a program can do, the suite does it, diagnoses
again and trains: the advice is right if the finding is gone and the test accuracy is 5
points higher. Thresholds are chosen on the split ``tuning``; ``held-out`` has
architectures and graphs that tuning never sees, and a seed that is chosen after them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import _verdict_trials
import torch
from _claim import RESULTS, publish
from _runs import Config, Queue, write
from _verdict_cases import SPLITS, Case, build, draw, fingerprint, repaired
from _verdict_diseases import Trial
from _verdict_scores import PREFACE, Outcome, label, markdown, scores
from _verdict_trials import REMEDIES, described, diagnose, remedy_of, train

import graphfathom as gf


class Plan:
    """The runs of all cases: labels, then diagnoses, then advice.

    Args:
        queue: Where results are found.
        cases: What was drawn.
        diagnoses: Whether to go on after the labels.
        deep: Whether to diagnose deeply, without which no bottleneck is found, and to
            follow the advice.
    """

    def __init__(
        self,
        queue: Queue,
        cases: list[Case],
        diagnoses: bool = True,
        deep: bool = True,
    ) -> None:
        self.queue = queue
        self.cases = cases
        self.diagnoses = diagnoses
        self.deep = deep
        package = sorted(Path(gf.__file__).parent.rglob("*.py"))
        self.code = _digest([*package, Path(_verdict_trials.__file__)])
        self._content = {case: fingerprint(case) for case in cases}

    def labels(self, case: Case) -> Config:
        """The run that trains a case and its twin."""
        content = self._content[case]
        shared = {"claim": "verdicts", "stage": "label", "content": content}
        return shared | case.to_dict()

    def diagnosis(self, case: Case) -> Config:
        """The run that diagnoses a case."""
        stage = {"stage": "diagnosis", "code": self.code, "deep": self.deep}
        return self.labels(case) | stage

    def advice(self, case: Case) -> Config:
        """The run that follows the advice."""
        return self.diagnosis(case) | {"stage": "advice"}

    def __call__(self) -> list[Config]:
        """All runs known by now, finished or not."""
        configs = [self.labels(case) for case in self.cases]
        if not self.diagnoses:
            return configs
        for case in self.cases:
            trained = self.queue.result(self.labels(case))
            if trained is None:
                continue
            configs.append(self.diagnosis(case))
            found = self.queue.result(self.diagnosis(case))
            is_sick = label(trained["accuracy"], trained["twin"]) == "sick"
            if self.deep and found is not None and found["remedy"] and is_sick:
                configs.append(self.advice(case))
        return configs

    def execute(self, config: Config, folder: Path) -> dict[str, Any]:
        """One run of any stage."""
        case = Case(**{name: config[name] for name in Case.__dataclass_fields__})
        if config["stage"] == "label":
            trials = {"accuracy": build(case), "twin": repaired(case)}
            return {name: train(t, case.seed) for name, t in trials.items()}
        if config["stage"] == "diagnosis":
            return examine(build(case), case.seed, self.deep)
        found = self.queue.result(self.diagnosis(case))
        assert found is not None
        return treat(build(case), case.seed, found)

    def outcomes(self) -> list[Outcome]:
        """What is known of each case that has been diagnosed."""
        known = []
        for case in self.cases:
            trained = self.queue.result(self.labels(case))
            found = self.queue.result(self.diagnosis(case))
            if trained is None or found is None:
                continue
            treated = self.queue.result(self.advice(case))
            numbers = trained["accuracy"], trained["twin"]
            known.append(Outcome(case, *numbers, tuple(found["findings"]), treated))
        return known


def examine(trial: Trial, seed: int, deep: bool) -> dict[str, Any]:
    """Diagnose; a diagnosis that fails is a finding as well, and a wrong one."""
    try:
        report = diagnose(trial, seed, deep)
    except Exception as error:  # whatever it is, the user has no verdict
        text = f"{type(error).__name__}: {error}"
        failed = {"name": "error", "severity": "critical", "title": text}
        return {"findings": [failed], "remedy": None}
    rest = [found for found in report.findings if found.name != PREFACE]
    return {
        "findings": [described(found) for found in report.findings],
        "remedy": remedy_of(rest[0]) if rest else None,
    }


def treat(trial: Trial, seed: int, found: dict[str, Any]) -> dict[str, Any]:
    """Follow the advice, diagnose again, train again."""
    names = [finding["name"] for finding in found["findings"]]
    ill = next(name for name in names if name != PREFACE)
    result = {"remedy": found["remedy"], "gone": False, "accuracy": 0.0}
    torch.manual_seed(seed)
    try:
        better = REMEDIES[found["remedy"]](trial)
        accuracy = train(better, seed)
        again = examine(better, seed, deep=True)["findings"]
    except Exception as error:  # the advice cannot be followed, whatever the reason
        return result | {"error": f"{type(error).__name__}: {error}"}
    gone = ill not in {finding["name"] for finding in again}
    return result | {"gone": gone, "accuracy": accuracy}


def _digest(paths: list[Path]) -> str:
    """Name of what some files say."""
    text = b"".join(path.read_bytes() for path in paths)
    return hashlib.sha256(text).hexdigest()[:16]


def _plan(options: argparse.Namespace) -> Plan:
    cases = draw(options.split, options.count, options.seed)
    if options.diseases:
        cases = [case for case in cases if case.disease in options.diseases]
    return Plan(Queue(options.runs), cases, not options.labels, not options.quick)


def _work(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    plan = _plan(options)
    plan.queue.work(plan, plan.execute, partial(print, flush=True))


def _share(options: argparse.Namespace) -> bool:
    """Work here, or in several processes; whether all went well."""
    if options.workers == 1:
        _work(options)
        return True
    context = get_context("spawn")
    workers = [
        context.Process(target=_work, args=(options,)) for _ in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return not any(worker.exitcode for worker in workers)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="16 cases, not deep, no file"
    )
    parser.add_argument("--split", choices=SPLITS, default="tuning")
    parser.add_argument("--seed", type=int, help="needed for held-out; else 0")
    parser.add_argument("--count", type=int, default=130)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--labels", action="store_true", help="train, do not diagnose")
    parser.add_argument("--diseases", nargs="+", help="only these of the cases drawn")
    parser.add_argument("--table", action="store_true", help="only print and publish")
    parser.add_argument("--runs", type=Path, default=Path("runs/verdicts"))
    options = parser.parse_args()
    if options.quick:
        options.split, options.count, options.workers = "tuning", 16, 2
        options.runs = Path(tempfile.mkdtemp())
    if options.split == "held-out" and options.seed is None:
        parser.error("held-out needs --seed: choose it when the thresholds are frozen")
    options.seed = options.seed or 0
    return options


def main() -> int:
    """Work, print, publish."""
    options = _options()
    if not options.table and not _share(options):
        return 1
    if options.labels:
        return 0
    plan = _plan(options)
    found = scores(plan.outcomes())
    print(markdown(found))
    for case in found["wrong"]:
        print(json.dumps(case))
    # Only the whole of the held-out split is a claim.
    is_part = options.diseases is not None or found["cases"] < options.count
    options.quick = is_part or options.split != "held-out"
    if not options.quick:
        write(RESULTS / "verdicts.md", markdown(found))
    publish(
        {
            "claim": "verdicts",
            "ratio": found["right"]["share"],
            "unit": "share of cases with the right first finding",
            "size": f"{found['cases']} cases, {found['not scored']} of them not scored",
            "split": options.split,
            "seed": options.seed,
            "code": plan.code,
            "pending": len(plan.cases) - found["cases"],
            **found,
        },
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
