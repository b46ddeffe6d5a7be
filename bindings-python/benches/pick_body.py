"""Times `pick_body` for a program that asks for it beside its own measurements.

    python pick_body.py BODY_FILE

For each line on stdin with a number N it makes N picks for the body in batches of 64, of which only the picks are timed and
not the completions, and answers with one line: nanoseconds, all batches together.
"""

import sys
from pathlib import Path
from time import perf_counter_ns

from p3sched import Scheduler

BATCH = 64


def main() -> None:
    body = Path(sys.argv[1]).read_bytes()
    scheduler = Scheduler()
    scheduler.set_endpoints([f"10.0.0.{number}:8000" for number in range(1, 9)])
    for line in sys.stdin:
        print(measure(scheduler, body, int(line)), flush=True)


def measure(scheduler: Scheduler, body: bytes, count: int) -> int:
    total = 0
    for first in range(0, count, BATCH):
        batch = range(min(BATCH, count - first))
        start = perf_counter_ns()
        decisions = [scheduler.pick_body("/v1/chat/completions", body) for _ in batch]
        total += perf_counter_ns() - start
        for decision in decisions:
            scheduler.complete(decision.id)
    return total


if __name__ == "__main__":
    main()
