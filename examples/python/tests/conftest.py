"""Simulated engines, each a process of its own."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

SIMULATOR = os.environ.get("ENGINE_SIMULATOR", str(Path(__file__).parents[3] / "target/debug/engine-simulator"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, seconds: float = 60) -> None:
    """Until a server answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def engine_process(port: int) -> subprocess.Popen[bytes]:
    options = ["--port", str(port), "--model", "simulated", "--speed", "20"]
    return subprocess.Popen([SIMULATOR, *options], stderr=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def engines() -> Iterator[list[str]]:
    """Names of three engines, `host:port`."""
    ports = [free_port() for _ in range(3)]
    processes = [engine_process(port) for port in ports]
    try:
        for port in ports:
            wait_for(f"http://127.0.0.1:{port}/metrics")
        yield [f"127.0.0.1:{port}" for port in ports]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def conversation(topic: int, question: str) -> list[dict[str, str]]:
    """Messages whose first one is long and the same for a topic."""
    system = f"You are assistant {topic} of a large shop. " * 40
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


def chat(topic: int, question: str, **options: object) -> bytes:
    body = {"model": "simulated", "messages": conversation(topic, question), "max_tokens": 4, **options}
    return json.dumps(body).encode()
