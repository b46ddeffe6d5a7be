"""The middleware, message by message."""

import asyncio
import json
from typing import Any

import pytest

from p3sched import Decision, Scheduler
from p3sched.asgi import Message, Receive, SchedulerMiddleware, Scope, Send
from p3sched.types import Stats

BODY = b'{"model": "llama", "prompt": "Once upon a time"}'
USAGE = b'{"usage": {"prompt_tokens": 4, "prompt_tokens_details": {"cached_tokens": 0}}}'


def scope_of(path: str = "/v1/completions", method: str = "POST") -> Scope:
    return {"type": "http", "method": method, "path": path}


class Client:
    """Sends a body in chunks, then disconnects when asked for more, and keeps what comes back."""

    def __init__(self, *chunks: bytes) -> None:
        self.messages: list[Message] = [
            {"type": "http.request", "body": chunk, "more_body": at < len(chunks)} for at, chunk in enumerate(chunks, 1)
        ]
        self.answer: list[Message] = []

    async def receive(self) -> Message:
        return self.messages.pop(0) if self.messages else {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.answer.append(message)


def run(application: Any, client: Client, scope: Scope | None = None, **options: Any) -> Stats:
    """Serves one request on two endpoints, and tells what the scheduler knows afterwards."""
    scheduler = options.pop("scheduler", None)
    if scheduler is None:
        scheduler = Scheduler()
        scheduler.set_endpoints(["a:1", "b:1"])
    middleware = SchedulerMiddleware(application, scheduler, **options)
    asyncio.run(middleware(scope or scope_of(), client.receive, client.send))
    stats: Stats = scheduler.stats()
    return stats


async def begin(send: Send, status: int = 200, content_type: bytes = b"application/json") -> None:
    headers = [(b"Content-Type", content_type)]
    await send({"type": "http.response.start", "status": status, "headers": headers})


def test_the_application_sees_the_decision_and_the_body() -> None:
    seen: list[Any] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([scope["p3sched"], await receive()])
        await begin(send)
        await send({"type": "http.response.body", "body": USAGE})

    client = Client(BODY[:10], BODY[10:])
    stats = run(application, client, explain=True)
    decision, message = seen
    assert isinstance(decision, Decision) and decision.endpoint in ("a:1", "b:1") and decision.explanation
    assert message == {"type": "http.request", "body": BODY, "more_body": False}
    assert [message["type"] for message in client.answer] == ["http.response.start", "http.response.body"]
    assert stats["counters"]["completed_requests"] == 1 and stats["counters"]["failed_requests"] == 0


@pytest.mark.parametrize(
    ("content_type", "expected"), [(b"text/event-stream; charset=utf-8", [4, 4, 0]), (b"application/json", [4, 4, 4])]
)
def test_an_event_stream_reports_its_first_token(content_type: bytes, expected: list[int]) -> None:
    scheduler = Scheduler()
    scheduler.add_endpoint("a:1")
    queued: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(send, content_type=content_type)
        for chunk in (b"", b"data: 1\n\n", b"data: 2\n\n"):
            queued.append(scheduler.stats()["endpoints"][0]["queued_tokens"])
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        queued.append(scheduler.stats()["requests_in_flight"])
        await send({"type": "http.response.body", "body": b""})
        queued.append(scheduler.stats()["requests_in_flight"])

    run(application, Client(BODY), scheduler=scheduler)
    assert queued == [*expected, 1, 0]


def test_the_usage_is_reported() -> None:
    scheduler = Scheduler(block_size_tokens=1)
    scheduler.add_endpoint("a:1")

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(send)
        await send({"type": "http.response.body", "body": USAGE[:20], "more_body": True})
        await send({"type": "http.response.body", "body": USAGE[20:].replace(b": 0", b": 3")})

    for _ in range(2):
        stats = run(application, Client(BODY), scheduler=scheduler)
    assert stats["endpoints"][0]["actual_cached_tokens"] == 6


def test_a_fallback_that_served_is_reported() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scope["p3sched.served_by"] = {"a:1": "b:1", "b:1": "a:1"}[scope["p3sched"].endpoint]
        await begin(send)
        await send({"type": "http.response.body", "body": USAGE})

    assert run(application, Client(BODY))["counters"]["served_elsewhere"] == 1


def test_a_name_of_another_type_leaves_no_booking(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scope["p3sched.served_by"] = 5
        await begin(send)
        await send({"type": "http.response.body", "body": USAGE})

    stats = run(application, Client(BODY))
    assert (stats["requests_in_flight"], stats["counters"]["completed_requests"]) == (0, 1)
    assert "p3sched.served_by must be a str: `5`" in caplog.text


def test_a_disconnect_completes() -> None:
    scheduler = Scheduler()
    scheduler.add_endpoint("a:1")

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert scheduler.stats()["requests_in_flight"] == 1
        assert (await receive())["type"] == "http.disconnect"
        assert scheduler.stats()["requests_in_flight"] == 0

    stats = run(application, Client(BODY), scheduler=scheduler)
    assert (stats["counters"]["completed_requests"], stats["counters"]["failed_requests"]) == (1, 1)


def test_exceptions_and_statuses_are_failures() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    scheduler = Scheduler()
    scheduler.add_endpoint("a:1")
    with pytest.raises(RuntimeError, match="broken"):
        run(broken, Client(BODY), scheduler=scheduler)

    for status, failures in ((502, 2), (404, 3), (302, 3), (200, 3)):

        async def application(scope: Scope, receive: Receive, send: Send, status: int = status) -> None:
            await begin(send, status)
            await send({"type": "http.response.body", "body": b""})

        assert run(application, Client(BODY), scheduler=scheduler)["counters"]["failed_requests"] == failures


@pytest.mark.parametrize(
    ("body", "options", "status", "code"),
    [
        (b'{"model": ', {}, 400, "InvalidRequest"),
        (BODY, {"scheduler": Scheduler()}, 503, "NoEndpoints"),
        (BODY, {"max_body_bytes": 10}, 413, "RequestTooLarge"),
    ],
)
def test_what_cannot_be_picked_is_refused(body: bytes, options: dict[str, Any], status: int, code: str) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("never called")

    client = Client(body)
    run(application, client, **options)
    assert client.answer[0]["status"] == status
    assert json.loads(client.answer[1]["body"])["error"]["code"] == code


def test_a_client_that_goes_early_costs_nothing() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("never called")

    client = Client(BODY)
    client.messages[0]["more_body"] = True
    assert run(application, client)["counters"]["picks"] == 0
    assert client.answer == []


@pytest.mark.parametrize("scope", [scope_of("/health", "GET"), {"type": "lifespan"}, {"type": "websocket"}])
def test_other_requests_pass_by(scope: Scope) -> None:
    seen: list[Scope] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    assert run(application, Client(BODY), scope)["counters"]["picks"] == 0
    assert seen == [scope] and "p3sched" not in scope
