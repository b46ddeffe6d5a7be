"""Picks the replica that should serve an LLM request.

The one that already holds the longest prefix of the prompt in its KV cache, unless its queue or its memory makes
another one faster.

* ``Scheduler`` picks, ``Request`` is what it picks for, ``Decision`` what it answers, with an ``Explanation`` if asked.
* ``p3sched.errors``: every exception derives from ``Error`` and has a ``code``.
* ``p3sched.types``: the plain dicts that go in and come out, as types.
* ``p3sched.aio``: keeps the load of engines up to date (``pip install p3sched[aio]``).
* ``p3sched.asgi``: picks for every request of an ASGI application (``pip install p3sched[asgi]``).
"""

from p3sched._explanation import Explanation
from p3sched._native import (
    Decision,
    KvEventBatch,
    Request,
    Route,
    Scheduler,
    UsageScanner,
    __version__,
    block_hashes,
    parse_metrics,
    presets,
)
from p3sched.errors import (
    Error,
    InvalidConfig,
    InvalidKvEvent,
    InvalidMetrics,
    InvalidRequest,
    InvalidSnapshot,
    NoEligibleEndpoint,
    NoEndpoints,
    UnknownEndpoint,
    UnknownRequest,
)

__all__ = [
    "Decision",
    "Error",
    "Explanation",
    "InvalidConfig",
    "InvalidKvEvent",
    "InvalidMetrics",
    "InvalidRequest",
    "InvalidSnapshot",
    "KvEventBatch",
    "NoEligibleEndpoint",
    "NoEndpoints",
    "Request",
    "Route",
    "Scheduler",
    "UnknownEndpoint",
    "UnknownRequest",
    "UsageScanner",
    "__version__",
    "block_hashes",
    "parse_metrics",
    "presets",
]
