from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Protocol, TypeAlias, final

from typing_extensions import Buffer, Unpack

from p3sched._explanation import Explanation
from p3sched.types import (
    DecisionFields,
    Endpoint,
    EndpointMetrics,
    KvBatchOutcome,
    KvEvent,
    KvEventBatchFields,
    SchedulerConfig,
    Stats,
    Usage,
)

__all__ = [
    "Decision",
    "KvEventBatch",
    "Request",
    "Route",
    "Scheduler",
    "UsageScanner",
    "__version__",
    "block_hashes",
    "parse_metrics",
    "presets",
]

__version__: Final[str]

class _Array(Protocol):
    """An array of numpy, whose own types do not say that it is a buffer before Python 3.12."""
    @property
    def __array_interface__(self) -> dict[str, Any]: ...

_TokenIds: TypeAlias = Buffer | Sequence[int] | _Array

def presets() -> list[str]: ...
def parse_metrics(page: Buffer) -> EndpointMetrics: ...
def block_hashes(
    request: Request,
    *,
    block_size_tokens: int | None = None,
    bytes_per_token: int | None = None,
    max_prefix_tokens: int | None = None,
) -> list[int]: ...
@final
class Request:
    def __new__(
        cls,
        model: str,
        *,
        text: str | Buffer | None = None,
        tokens: _TokenIds | None = None,
        adapter: str | None = None,
        cache_salt: str | None = None,
        session: str | None = None,
        priority: int | None = None,
        stream: bool | None = None,
        subset: Sequence[str] | None = None,
        explain: bool | None = None,
    ) -> Request: ...
    @staticmethod
    def from_body(
        path: str,
        body: Buffer,
        *,
        adapter: str | None = None,
        cache_salt: str | None = None,
        session: str | None = None,
        priority: int | None = None,
        subset: Sequence[str] | None = None,
        explain: bool | None = None,
    ) -> Request: ...
    @property
    def model(self) -> str: ...
    @property
    def adapter(self) -> str | None: ...
    @property
    def cache_salt(self) -> str | None: ...
    @property
    def session(self) -> str | None: ...
    @property
    def priority(self) -> int: ...
    @property
    def prompt(self) -> bytes | list[int]: ...
    @property
    def stream(self) -> bool: ...
    @property
    def subset(self) -> list[str] | None: ...
    @property
    def explain(self) -> bool: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class Decision:
    def __new__(
        cls,
        id: int,
        endpoint: str,
        *,
        fallbacks: Sequence[str] = ...,
        matched_tokens: int,
        prompt_tokens: int,
        explanation: Explanation | None = None,
    ) -> Decision: ...
    @property
    def id(self) -> int: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def fallbacks(self) -> tuple[str, ...]: ...
    @property
    def matched_tokens(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def explanation(self) -> Explanation | None: ...
    def to_dict(self) -> DecisionFields: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs_ex__(self) -> tuple[tuple[int, str], dict[str, Any]]: ...

@final
class KvEventBatch:
    @staticmethod
    def decode(payload: Buffer, sequence: int) -> KvEventBatch: ...
    @property
    def sequence(self) -> int: ...
    @property
    def timestamp(self) -> float: ...
    @property
    def rank(self) -> int: ...
    def to_dict(self) -> KvEventBatchFields: ...
    def __len__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class UsageScanner:
    def __new__(cls) -> UsageScanner: ...
    def push(self, chunk: Buffer) -> None: ...
    def finish(self) -> Usage: ...

@final
class Route:
    def __enter__(self) -> Decision: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class Scheduler:
    def __new__(
        cls, config: SchedulerConfig | str | None = None, /, **fields: Unpack[SchedulerConfig]
    ) -> Scheduler: ...
    @property
    def config(self) -> SchedulerConfig: ...
    def add_endpoint(self, endpoint: str | Endpoint) -> None: ...
    def remove_endpoint(self, name: str) -> None: ...
    def set_endpoints(self, endpoints: Iterable[str | Endpoint]) -> None: ...
    def pick(self, request: Request, *, now: int | None = None) -> Decision: ...
    def pick_body(
        self, path: str, body: Buffer, *, explain: bool | None = None, now: int | None = None
    ) -> Decision: ...
    def route(self, path: str, body: Buffer, *, explain: bool | None = None) -> Route: ...
    def explain(self, request: Request, *, now: int | None = None) -> Decision: ...
    def first_token(self, id: int, *, now: int | None = None) -> None: ...
    def complete(
        self,
        id: int,
        *,
        success: bool | None = None,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        cached_tokens: int | None = None,
        served_by: str | None = None,
        now: int | None = None,
    ) -> None: ...
    def ingest_metrics(self, endpoint: str, page: Buffer, *, now: int | None = None) -> None: ...
    def observe(
        self, endpoint: str, metrics: EndpointMetrics | Mapping[str, Any], *, now: int | None = None
    ) -> None: ...
    def ingest_load_header(self, endpoint: str, value: str, *, now: int | None = None) -> None: ...
    def scrape_failed(
        self, endpoint: str, failure: Literal["unreachable", "failed"], *, now: int | None = None
    ) -> None: ...
    def apply_kv_event(self, endpoint: str, event: KvEvent, *, now: int | None = None) -> None: ...
    def apply_kv_batch(
        self, endpoint: str, batch: KvEventBatch | KvEventBatchFields, *, now: int | None = None
    ) -> KvBatchOutcome: ...
    def resume_kv_events(self, endpoint: str, rank: int, next: int) -> None: ...
    def snapshot(self) -> bytes: ...
    def restore(self, snapshot: Buffer) -> None: ...
    def stats(self, *, now: int | None = None) -> Stats: ...
