"""Keeps the load of engines up to date: ``pip install p3sched[aio]``.

>>> import asyncio
>>> from p3sched import Scheduler
>>> from p3sched.aio import MetricsPoller
>>> async def main() -> None:
...     scheduler = Scheduler()
...     scheduler.set_endpoints(["127.0.0.1:9"])  # nobody listens there
...     async with MetricsPoller(scheduler, interval=0.01):
...         while scheduler.stats()["endpoints"][0]["reachable"]:
...             await asyncio.sleep(0.01)
...     print("unreachable")
>>> asyncio.run(main())
unreachable
"""

import asyncio
import logging
import ssl
from types import TracebackType

import anyio
import httpx

from p3sched import Error, Scheduler

_log = logging.getLogger("p3sched.aio")

MAX_PAGE_BYTES = 8 << 20
"""The largest page that is read; real ones are under 100 kB."""


class MetricsPoller:
    """Reads the metrics pages of all endpoints of a scheduler on a period, while its ``async with`` block runs.

    Endpoints that are added or removed meanwhile are followed. A refused connection tells the scheduler that nobody
    listens, no answer that a scrape failed; an engine that answers with something else than metrics is alive, and is
    picked by what the scheduler knows without them.

    :param interval: seconds between two scrapes of an endpoint
    :param timeout: seconds that an answer may take
    :param max_backoff: seconds between two scrapes at most, of an endpoint that fails: the pause doubles until then
    :param scheme: ``http`` or ``https``
    :param path: path of the metrics page
    :param verify: for ``https``: an ``ssl.SSLContext`` with authorities and client certificate, ``True`` for the
        system's authorities, ``False`` for none
    :param client: an ``httpx.AsyncClient`` of your own, for headers or proxies; it is left open, and its ``verify``
        counts
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        interval: float = 0.25,
        timeout: float = 2.0,
        max_backoff: float = 2.0,
        scheme: str = "http",
        path: str = "/metrics",
        verify: ssl.SSLContext | bool = True,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._interval = interval
        self._timeout = timeout
        self._max_backoff = max_backoff
        self._scheme = scheme
        self._path = path
        self._owns_client = client is None
        # No limit of connections: silent engines would keep the others waiting for theirs.
        self._client = client or httpx.AsyncClient(verify=verify, limits=httpx.Limits())
        self._scrapes: dict[str, asyncio.Task[None]] = {}
        self._follower: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "MetricsPoller":
        self._follower = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tasks = [task for task in [self._follower, *self._scrapes.values()] if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._scrapes.clear()
        if self._owns_client:
            await self._client.aclose()

    async def _follow(self) -> None:
        """Keeps one task for each endpoint that the scheduler has."""
        while True:
            names = {endpoint["endpoint"] for endpoint in self._scheduler.stats()["endpoints"]}
            for name in self._scrapes.keys() - names:
                self._scrapes.pop(name).cancel()
            for name in names - self._scrapes.keys():
                self._scrapes[name] = asyncio.create_task(self._scrape_forever(name))
            await asyncio.sleep(self._interval)

    async def _scrape_forever(self, name: str) -> None:
        failures = 0
        while True:
            try:
                self._scheduler.ingest_metrics(name, await self._fetch(name))
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, Error) as error:
                if failures == 0:
                    _log.warning("metrics of `%s` cannot be read: %r", name, error)
                failures += 1
                self._report(name, error)
            else:
                failures = 0
            await asyncio.sleep(min(self._interval * 2 ** min(failures, 16), max(self._max_backoff, self._interval)))

    async def _fetch(self, name: str) -> bytes:
        # Not `asyncio.wait_for`: before Python 3.12 it loses a cancellation that comes together with the result.
        with anyio.fail_after(self._timeout):
            return await self._page(f"{self._scheme}://{name}{self._path}")

    async def _page(self, url: str) -> bytes:
        async with self._client.stream("GET", url, timeout=self._timeout) as response:
            response.raise_for_status()
            page = bytearray()
            async for chunk in response.aiter_bytes():
                page += chunk
                if len(page) > MAX_PAGE_BYTES:
                    raise httpx.DecodingError(f"page is larger than bytes: `{MAX_PAGE_BYTES}`")
            return bytes(page)

    def _report(self, name: str, error: Exception) -> None:
        """Tells the scheduler what a failure says of the engine."""
        if isinstance(error, (httpx.HTTPStatusError, httpx.DecodingError, httpx.InvalidURL, httpx.PoolTimeout, Error)):
            return
        try:
            self._scheduler.scrape_failed(name, "unreachable" if _is_refused(error) else "failed")
        except Error as gone:
            _log.debug("endpoint left during its scrape: %s", gone)


def _is_refused(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return True
        error = error.__cause__ or error.__context__
    return False
