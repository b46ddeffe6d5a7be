"""The FastAPI gateway in front of simulated engines, over real connections."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from conftest import chat, free_port, wait_for

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def gateway(engines: list[str]) -> Iterator[httpx.Client]:
    """A client of a gateway whose third endpoint nobody listens on."""
    port = free_port()
    endpoints = ",".join([*engines[:2], f"127.0.0.1:{free_port()}"])
    command = [sys.executable, "-m", "uvicorn", "gateway:app", "--port", str(port), "--log-level", "warning"]
    environment = {**os.environ, "ENDPOINTS": endpoints}
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], env=environment)
    try:
        wait_for(f"http://127.0.0.1:{port}/stats")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        process.kill()
        process.wait()


def endpoint(answer: httpx.Response) -> str:
    answer.raise_for_status()
    return answer.headers["x-p3sched-endpoint"]


def test_a_prefix_stays_and_topics_spread(gateway: httpx.Client, engines: list[str]) -> None:
    homes = {}
    for topic in range(6):
        answers = [gateway.post(CHAT, content=chat(topic, f"Question {number}")) for number in range(3)]
        homes[topic] = {endpoint(answer) for answer in answers}
        assert answers[0].json()["choices"][0]["message"]["content"]
    assert all(len(home) == 1 for home in homes.values()), homes
    assert set().union(*homes.values()) == set(engines[:2])


def test_streams_arrive_in_chunks_and_are_completed(gateway: httpx.Client) -> None:
    before = gateway.get("/stats").json()["counters"]
    with gateway.stream("POST", CHAT, content=chat(1, "Stream", stream=True)) as answer:
        events = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert len(events) > 3 and events[-1] == "data: [DONE]"
    after = gateway.get("/stats").json()
    assert after["counters"]["completed_requests"] == before["completed_requests"] + 1
    assert after["counters"]["failed_requests"] == before["failed_requests"]


def test_a_client_that_leaves_is_completed(gateway: httpx.Client) -> None:
    with gateway.stream("POST", CHAT, content=chat(2, "Long", stream=True, max_tokens=5000)) as answer:
        lines = answer.iter_lines()
        assert next(lines)
        assert gateway.get("/stats").json()["requests_in_flight"] == 1
    for _ in range(200):
        if gateway.get("/stats").json()["requests_in_flight"] == 0:
            break
    assert gateway.get("/stats").json()["requests_in_flight"] == 0


def test_many_at_once(gateway: httpx.Client, engines: list[str]) -> None:
    with ThreadPoolExecutor(16) as pool:
        bodies = [chat(number, "At once", stream=number % 2 == 0) for number in range(32)]
        answers = list(pool.map(lambda body: gateway.post(CHAT, content=body), bodies))
    assert {endpoint(answer) for answer in answers} == set(engines[:2])
    assert gateway.get("/stats").json()["requests_in_flight"] == 0


def test_a_body_that_cannot_be_read_is_refused(gateway: httpx.Client) -> None:
    answer = gateway.post(CHAT, content=b'{"model": ')
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "InvalidRequest"


def test_the_metrics_of_engines_are_read(gateway: httpx.Client, engines: list[str]) -> None:
    endpoints = {entry["endpoint"]: entry for entry in gateway.get("/stats").json()["endpoints"]}
    assert all(endpoints[name]["metrics_age_seconds"] < 5 for name in engines[:2])
    assert [entry["reachable"] for name, entry in endpoints.items() if name not in engines] == [False]
