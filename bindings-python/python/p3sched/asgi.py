"""Picks for every request of an ASGI application (Starlette, FastAPI, …): ``pip install p3sched[asgi]``.

>>> from p3sched import Scheduler
>>> from p3sched.asgi import SchedulerMiddleware
>>> async def application(scope, receive, send):
...     decision = scope["p3sched"]  # forward the request to decision.endpoint
>>> scheduler = Scheduler()
>>> application = SchedulerMiddleware(application, scheduler)
"""

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from p3sched import Decision, Error, InvalidRequest, Scheduler, UsageScanner

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger("p3sched.asgi")

SCOPE_KEY = "p3sched"
"""Where the application finds the ``Decision``: ``scope[SCOPE_KEY]``, ``request.scope[SCOPE_KEY]`` in Starlette."""

SERVED_BY_KEY = "p3sched.served_by"
"""Where the application leaves the name of the endpoint that served, if it was a fallback."""


def is_post(scope: Scope) -> bool:
    """The requests that are picked for unless said otherwise."""
    return bool(scope["method"] == "POST")


class SchedulerMiddleware:
    """Picks an endpoint for each request, and reports what becomes of it.

    The body is read first and given to the application again. The decision is in ``scope["p3sched"]``. The first chunk
    of an event stream is reported as the first token; the end of the answer, the client's disconnect or an exception
    complete the request, with the usage that the answer names. An answer whose status is not 2xx or 3xx is a failure. An
    application that sent the request elsewhere says so in ``scope["p3sched.served_by"]``.

    Where no endpoint can be picked, the answer is an error in OpenAI's form: 400 for a body that cannot be read, 413
    for one that is too large, 503 without an endpoint.

    :param explain: whether decisions carry an explanation
    :param max_body_bytes: the largest body that is read
    :param applies: the requests that are picked for, by their scope; others pass by untouched
    """

    def __init__(
        self,
        app: Application,
        scheduler: Scheduler,
        *,
        explain: bool = False,
        max_body_bytes: int = 64 << 20,
        applies: Callable[[Scope], bool] = is_post,
    ) -> None:
        self._app = app
        self._scheduler = scheduler
        self._explain = explain
        self._max_body_bytes = max_body_bytes
        self._applies = applies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._applies(scope):
            return await self._app(scope, receive, send)
        body = await self._read(receive)
        if body is None:
            return None
        if len(body) > self._max_body_bytes:
            return await _refuse(send, 413, "RequestTooLarge", f"body must have bytes at most: `{self._max_body_bytes}`")
        try:
            decision = self._scheduler.pick_body(scope["path"], body, explain=self._explain)
        except Error as error:
            return await _refuse(send, 400 if isinstance(error, InvalidRequest) else 503, error.code, str(error))
        exchange = _Exchange(self._scheduler, decision, body, scope, receive, send)
        scope[SCOPE_KEY] = decision
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            exchange.complete()

    async def _read(self, receive: Receive) -> bytes | None:
        """The body, up to a byte more than allowed; ``None`` if the client has gone."""
        body = bytearray()
        while len(body) <= self._max_body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        return bytes(body)


class _Exchange:
    """One request and its answer, as they pass by."""

    def __init__(
        self, scheduler: Scheduler, decision: Decision, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._scheduler = scheduler
        self._id = decision.id
        self._body: bytes | None = body
        self._scope = scope
        self._receive = receive
        self._send = send
        self._usage = UsageScanner()
        self._status = 0
        self._is_event_stream = False
        self._has_begun = False
        self._has_ended = False

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.complete()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            # Any other answer comes when it is complete: its first byte says nothing about the first token.
            self._is_event_stream = any(
                name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                for name, value in message.get("headers", ())
            )
        elif message["type"] == "http.response.body":
            self._pass(message.get("body", b""), message.get("more_body", False))
        await self._send(message)

    def _pass(self, chunk: bytes, more: bool) -> None:
        if chunk and self._is_event_stream and not self._has_begun:
            self._has_begun = True
            self._scheduler.first_token(self._id)
        self._usage.push(chunk)
        if not more:
            self._has_ended = True
            self.complete()

    def complete(self) -> None:
        """Reports the end, whatever it is; of several reports the first counts."""
        success = self._has_ended and 200 <= self._status < 400
        served_by = self._scope.get(SERVED_BY_KEY)
        if served_by is not None and not isinstance(served_by, str):
            _log.warning("%s must be a str: `%r`", SERVED_BY_KEY, served_by)
            served_by = None
        self._scheduler.complete(self._id, success=success, served_by=served_by, **self._usage.finish())


async def _refuse(send: Send, status: int, code: str, message: str) -> None:
    kind = "invalid_request_error" if status < 500 else "service_unavailable"
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
