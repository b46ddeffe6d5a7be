"""The plain dicts that go in and come out, as types; they are the same as JSON in every language.

For type checkers and readers: nothing here is needed at run time. In what goes in, any field may be left out; the core's
documentation of the type of the same name says what each means.
"""

from typing import Literal, TypedDict

from p3sched._explanation import Explanation


class _Plugin(TypedDict):
    type: str


class FilterConfig(_Plugin, total=False):
    """One filter of a profile."""

    parameters: dict[str, float]


class ScorerConfig(_Plugin, total=False):
    """One scorer of a profile; its score is multiplied by ``weight``."""

    weight: float
    parameters: dict[str, float]


class PickerConfig(_Plugin, total=False):
    """How one of the scored endpoints is chosen."""

    parameters: dict[str, float]


class MetricsConfig(TypedDict, total=False):
    """When scraped metrics stop to count."""

    fresh_seconds: float
    expire_seconds: float
    dead_after_scrapes: int
    dead_after_seconds: float


class BookingConfig(TypedDict, total=False):
    """When bookings that nobody ended expire."""

    first_token_timeout_seconds: float
    request_timeout_seconds: float


class KvEventConfig(TypedDict, total=False):
    """What the KV events of engines are taken for."""

    model: str
    confirm_within_seconds: float


class SchedulerConfig(TypedDict, total=False):
    """Everything that can be set about a ``Scheduler``."""

    preset: str
    filters: list[FilterConfig]
    scorers: list[ScorerConfig]
    picker: PickerConfig
    fallbacks: int
    load_gate_seconds: float | None
    seed: int
    block_size_tokens: int
    bytes_per_token: int
    max_prefix_tokens: int | None
    index_max_bytes: int
    default_capacity_tokens: int
    prefill_tokens_per_second: float | None
    metrics: MetricsConfig
    bookings: BookingConfig
    kv_events: KvEventConfig


class _Endpoint(TypedDict):
    name: str


class Endpoint(_Endpoint, total=False):
    """One replica that can be picked: ``host:port``, and free labels."""

    labels: dict[str, str]


class EndpointMetrics(TypedDict, total=False):
    """The load of one endpoint as its engine reports it; what is not known is ``None`` or left out."""

    waiting_requests: float | None
    running_requests: float | None
    kv_cache_utilization: float | None
    block_size_tokens: int | None
    block_count: int | None
    max_adapters: int | None
    running_adapters: list[str]
    waiting_adapters: list[str]
    prefix_cache_queries_total: float | None
    prefix_cache_hits_total: float | None
    request_success_total: float | None


class BlocksStored(TypedDict, total=False):
    """A KV event: blocks are in the cache now, or are still there. ``type`` is needed."""

    type: Literal["stored"]
    block_hashes: list[int]
    parent: int | None
    token_ids: list[int]
    block_size: int
    adapter: str | None
    cache_salt: str | None
    media: list[int]
    medium: str | None
    group: int | None
    attention: str | None


class BlocksRemoved(TypedDict, total=False):
    """A KV event: blocks are gone, and with them everything that continued them. ``type`` is needed."""

    type: Literal["removed"]
    block_hashes: list[int]
    medium: str | None
    group: int | None


class Cleared(TypedDict):
    """A KV event: the cache is empty."""

    type: Literal["cleared"]


KvEvent = BlocksStored | BlocksRemoved | Cleared
"""One change of an engine's KV cache."""


class KvEventBatchFields(TypedDict, total=False):
    """Events that an engine published together."""

    sequence: int
    timestamp: float
    rank: int
    events: list[KvEvent]


class _KvBatchOutcome(TypedDict):
    type: Literal["applied", "restarted", "repeated", "gap"]


class KvBatchOutcome(_KvBatchOutcome, total=False):
    """What became of a batch; a gap has the sequence number that would have come next."""

    expected: int


class Usage(TypedDict):
    """Tokens of one answer; what it does not say is ``None``."""

    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None


class ScoreExplanation(TypedDict):
    """What one scorer contributed."""

    scorer: str
    raw: float | None
    score: float
    missing: bool
    weight: float
    contribution: float


class EndpointExplanation(TypedDict):
    """How one endpoint was rated."""

    endpoint: str
    total: float | None
    dropped_by: str | None
    matched_tokens: int
    wait_seconds: float | None
    gate_margin_seconds: float | None
    metrics_age_seconds: float | None
    requests_in_flight: int
    scores: list[ScoreExplanation]


class ExplanationFields(TypedDict):
    """What an ``Explanation`` holds: the chosen endpoint first, then by total, those that a filter dropped last."""

    prompt_tokens: int
    tie_rule: Literal["unique", "rendezvous", "least-recently-cold", "random", "round-robin"]
    runner_up_distance: float | None
    endpoints: list[EndpointExplanation]


class _DecisionFields(TypedDict):
    id: int
    endpoint: str
    fallbacks: list[str]
    matched_tokens: int
    prompt_tokens: int


class DecisionFields(_DecisionFields, total=False):
    """A ``Decision`` as a dict; the explanation is there if it was asked for."""

    explanation: Explanation


class EndpointStats(TypedDict):
    """One endpoint as the scheduler sees it."""

    endpoint: str
    reachable: bool
    metrics_age_seconds: float | None
    waiting_requests: float | None
    running_requests: float | None
    kv_cache_utilization: float | None
    requests_in_flight: int
    tokens_in_flight: int
    queued_tokens: int
    wait_seconds: float | None
    prefill_tokens_per_second: float | None
    index_blocks: int
    sends_kv_events: bool
    predicted_cached_tokens: int
    actual_cached_tokens: int
    missed_predictions: int
    predictions_distrusted: bool


class IndexStats(TypedDict):
    """Size of the prefix index."""

    unique_blocks: int
    bytes: int


class Stats(TypedDict):
    """A picture of the whole scheduler; ``counters`` are counts since it was made."""

    endpoints: list[EndpointStats]
    requests_in_flight: int
    index: IndexStats
    counters: dict[str, int]
