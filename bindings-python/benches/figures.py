"""Figures of the Python binding, as one JSON list on stdout.

    python figures.py

Beside `SelectionService.select` of ai-dynamo-runtime 1.6.1, which `make python-bench-setup` installs. Every figure is a
ratio, or a share, of measurements that take turns in this process.
"""

import asyncio
import json
import os
import sys
import threading
from array import array
from collections.abc import Awaitable, Callable
from statistics import median, quantiles
from time import perf_counter_ns
from typing import Any

import numpy

from p3sched import Request, Scheduler

# Lines of a log cost more than what they report.
os.environ.setdefault("DYN_LOG", "error")

ENDPOINTS = range(1, 9)
ROUNDS = 41


def main() -> None:
    try:
        from dynamo._core import SelectionService
    except ImportError as error:
        sys.exit(f"ai-dynamo-runtime cannot be imported: `{error}`\nhint: make python-bench-setup installs it")
    figures = [*conversions(), *computing_thread(), *asyncio.run(beside_selection_service(SelectionService))]
    print(json.dumps(figures, indent=2))


def scheduler_of_endpoints() -> Scheduler:
    scheduler = Scheduler()
    scheduler.set_endpoints([f"10.0.0.{number}:8000" for number in ENDPOINTS])
    return scheduler


async def beside_selection_service(service_class: Any) -> list[dict[str, Any]]:
    """The same prompts in token ids: theirs as a list, as it takes them, ours as an array."""
    service = service_class()
    for number in ENDPOINTS:
        await service.upsert_worker(
            {
                "worker_id": number,
                "endpoint": f"http://10.0.0.{number}:8000",
                "kv_events_endpoint": f"tcp://127.0.0.1:{40_000 + number}",
                "block_size": 16,
                "max_num_batched_tokens": 8192,
            }
        )
    figures = []
    for count in (512, 4096):
        scheduler = scheduler_of_endpoints()
        tokens = array("I", range(count))
        request = {"token_ids": list(tokens)}

        async def select() -> None:
            await service.select(request)

        async def pick() -> None:
            decision = scheduler.pick(Request("default", tokens=tokens))
            scheduler.complete(decision.id)

        pairs = [(await timed(select, 20), await timed(pick, 200)) for _ in range(ROUNDS)]
        detail = f"select: {median(pair[0] for pair in pairs):.0f} ns, pick and complete: {median(pair[1] for pair in pairs):.0f} ns"
        ratios = [theirs / ours for theirs, ours in pairs]
        name = f"python/pick/{count}-tokens/SelectionService.select"
        figures.append(figure(name, "times faster", ratios, detail, at_least=20))
    service.shutdown()
    return figures


async def timed(call: Callable[[], Awaitable[None]], count: int) -> float:
    """Nanoseconds per call."""
    start = perf_counter_ns()
    for _ in range(count):
        await call()
    return (perf_counter_ns() - start) / count


def conversions() -> list[dict[str, Any]]:
    """Buffers beside what each element of has to be looked at, and beside `bytes`."""
    tokens = list(range(4096))
    body = json.dumps({"model": "llama", "prompt": "x" * 4096}).encode()
    scheduler = scheduler_of_endpoints()

    def request(tokens: Any) -> Callable[[], object]:
        return lambda: Request("llama", tokens=tokens)

    def pick(body: Any) -> Callable[[], object]:
        return lambda: scheduler.complete(scheduler.pick_body("/v1/completions", body).id)

    listed = request(tokens)
    figures = []
    for name, buffer in (("array", array("I", tokens)), ("numpy", numpy.array(tokens, "int64"))):
        pairs = [(called(listed, 20), called(request(buffer), 200)) for _ in range(ROUNDS)]
        ratios = [one / other for one, other in pairs]
        detail = f"a request of 4096 tokens from a list of int: {median(pair[0] for pair in pairs):.0f} ns"
        detail += f", from a buffer: {median(pair[1] for pair in pairs):.0f} ns"
        figures.append(figure(f"python/tokens/{name}", "times faster than a list", ratios, detail, at_least=5))
    for name, buffer in (("bytearray", bytearray(body)), ("memoryview", memoryview(body))):
        pairs = [(called(pick(buffer), 500), called(pick(body), 500)) for _ in range(ROUNDS)]
        ratios = [one / other for one, other in pairs]
        detail = f"a pick for a body of 4 KB in this buffer: {median(pair[0] for pair in pairs):.0f} ns"
        detail += f", in bytes: {median(pair[1] for pair in pairs):.0f} ns"
        figures.append(figure(f"python/body/{name}", "times the time for bytes", ratios, detail, at_most=1.5))
    return figures


def called(call: Callable[[], object], count: int) -> float:
    """Nanoseconds per call."""
    start = perf_counter_ns()
    for _ in range(count):
        call()
    return (perf_counter_ns() - start) / count


def computing_thread() -> list[dict[str, Any]]:
    """What a thread that computes still gets done beside two threads that pick for bodies of 1 MB without a pause.

    Three threads that take turns under one lock would leave it a third; two cores shared by three leave it two thirds.
    """
    scheduler = scheduler_of_endpoints()
    body = json.dumps({"model": "llama", "prompt": "x" * (1 << 20)}).encode()
    shares = []
    for _ in range(9):
        alone = compute(0.1)
        is_over = threading.Event()

        def pick() -> None:
            while not is_over.is_set():
                scheduler.complete(scheduler.pick_body("/v1/completions", body).id)

        threads = [threading.Thread(target=pick) for _ in range(2)]
        for thread in threads:
            thread.start()
        shares.append(compute(0.3) / 3 / alone)
        is_over.set()
        for thread in threads:
            thread.join()
    detail = "work done beside two threads that pick, over work done alone in the same time"
    return [figure("python/threads/third-computes", "of alone", shares, detail, at_least=0.45)]


def compute(seconds: float) -> int:
    """Rounds of a computation in pure Python."""
    end = perf_counter_ns() + int(seconds * 1e9)
    rounds = 0
    while perf_counter_ns() < end:
        sum(range(100))
        rounds += 1
    return rounds


def figure(name: str, unit: str, samples: list[float], detail: str, **goal: float) -> dict[str, Any]:
    first, middle, third = quantiles(samples, n=4)
    spread = round((third - first) / middle, 3)
    return {"name": name, "value": round(middle, 3), "unit": unit, **goal, "spread": spread, "detail": detail}


if __name__ == "__main__":
    main()
