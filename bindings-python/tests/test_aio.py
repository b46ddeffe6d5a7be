"""The poller against servers on loopback, with TLS and without."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trustme

from p3sched import Scheduler
from p3sched.aio import MetricsPoller
from p3sched.types import EndpointStats

PAGE = b"vllm:num_requests_waiting 3\n"


@asynccontextmanager
async def engine(status: bytes, body: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Answers every connection with one page."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 %s\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
        writer.write(head + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()


async def until(scheduler: Scheduler, holds: Callable[[EndpointStats], bool]) -> EndpointStats:
    """The state of the first endpoint, as soon as something holds of it."""
    async with asyncio.timeout(10) if hasattr(asyncio, "timeout") else _unlimited():
        while not holds(scheduler.stats()["endpoints"][0]):
            await asyncio.sleep(0.005)
    return scheduler.stats()["endpoints"][0]


@asynccontextmanager
async def _unlimited() -> AsyncIterator[None]:
    yield


def is_scraped(endpoint: EndpointStats) -> bool:
    return endpoint["metrics_age_seconds"] is not None


def test_metrics_arrive_and_endpoints_are_followed() -> None:
    async def scenario() -> None:
        scheduler = Scheduler()
        async with engine(b"200 OK", PAGE) as name, MetricsPoller(scheduler, interval=0.01):
            await asyncio.sleep(0.03)
            scheduler.add_endpoint(name)
            assert (await until(scheduler, is_scraped))["waiting_requests"] == 3
            scheduler.remove_endpoint(name)
            await asyncio.sleep(0.03)
            assert scheduler.stats()["endpoints"] == []

    asyncio.run(scenario())


def test_a_refused_connection_is_unreachable_until_it_is_not() -> None:
    async def scenario() -> None:
        scheduler = Scheduler()
        async with engine(b"200 OK", PAGE) as name:
            pass
        scheduler.add_endpoint(name)
        async with MetricsPoller(scheduler, interval=0.01, max_backoff=0.02):
            await until(scheduler, lambda endpoint: not endpoint["reachable"])
            host, port = name.split(":")

            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(PAGE), PAGE))
                writer.close()

            server = await asyncio.start_server(answer, host, int(port))
            await until(scheduler, lambda endpoint: endpoint["reachable"])
            server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("status", "body"), [(b"404 Not Found", b"no"), (b"200 OK", b"<html>")])
def test_an_engine_that_answers_otherwise_is_alive(status: bytes, body: bytes) -> None:
    async def scenario() -> None:
        scheduler = Scheduler(metrics={"dead_after_scrapes": 1, "dead_after_seconds": 0})
        async with engine(status, body) as name:
            scheduler.add_endpoint(name)
            async with MetricsPoller(scheduler, interval=0.005, max_backoff=0.01):
                await asyncio.sleep(0.1)
            endpoint = scheduler.stats()["endpoints"][0]
            assert endpoint["reachable"] and not is_scraped(endpoint)

    asyncio.run(scenario())


def test_a_silent_engine_fails_its_scrapes() -> None:
    async def scenario() -> None:
        scheduler = Scheduler(metrics={"dead_after_scrapes": 2, "dead_after_seconds": 0})
        server = await asyncio.start_server(lambda reader, writer: asyncio.sleep(10), "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        scheduler.add_endpoint(f"{host}:{port}")
        async with MetricsPoller(scheduler, interval=0.01, timeout=0.05, max_backoff=0.02):
            await until(scheduler, lambda endpoint: not endpoint["reachable"])
        server.close()

    asyncio.run(scenario())


def test_it_ends_whatever_it_is_at() -> None:
    async def scenario() -> None:
        scheduler = Scheduler()
        async with engine(b"200 OK", PAGE) as name:
            scheduler.add_endpoint(name)
            for number in range(200):
                async with MetricsPoller(scheduler, interval=0.0005, max_backoff=0.0005, verify=False):
                    await asyncio.sleep(number / 200 * 0.01)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_tls() -> None:
    async def scenario() -> None:
        authority = trustme.CA()
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(server)
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        async with engine(b"200 OK", PAGE, server) as name:
            for verify, is_trusted in ((trusting, True), (False, True), (True, False)):
                scheduler = Scheduler()
                scheduler.add_endpoint(name)
                async with MetricsPoller(scheduler, interval=0.01, scheme="https", verify=verify):
                    if is_trusted:
                        await until(scheduler, is_scraped)
                    else:
                        await asyncio.sleep(0.1)
                        assert not is_scraped(scheduler.stats()["endpoints"][0])

    asyncio.run(scenario())


