"""Ray Serve with the router, replicas of which each says who it is."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from conftest import chat, conversation
from ray import serve
from ray.serve.config import RequestRouterConfig

EXAMPLES = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def handle() -> Iterator[serve.handle.DeploymentHandle]:
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=100 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": EXAMPLES}},
        log_to_driver=False,
    )
    sys.path.insert(0, EXAMPLES)

    @serve.deployment(
        num_replicas=3,
        ray_actor_options={"num_cpus": 0.1},
        request_router_config=RequestRouterConfig(
            request_router_class="ray_serve_router:PrefixCacheRouter", request_router_kwargs={"preset": "latency"}
        ),
    )
    class Engine:
        def __call__(self, body: object) -> str:
            return str(serve.get_replica_context().replica_id.unique_id)

    try:
        yield serve.run(Engine.bind(), route_prefix=None)
    finally:
        serve.shutdown()
        ray.shutdown()


def test_a_prefix_stays_and_topics_spread(handle: serve.handle.DeploymentHandle) -> None:
    homes = {
        topic: {handle.remote(chat(topic, f"Question {number}")).result(timeout_s=30) for number in range(3)}
        for topic in range(6)
    }
    assert all(len(home) == 1 for home in homes.values()), homes
    assert len(set().union(*homes.values())) == 3


def test_dicts_and_requests_without_a_prompt(handle: serve.handle.DeploymentHandle) -> None:
    body = {"model": "simulated", "messages": conversation(9, "As a dict")}
    assert len({handle.remote(body).result(timeout_s=30) for _ in range(3)}) == 1
    assert handle.remote(None).result(timeout_s=30)
    assert handle.remote(b"no body of a chat").result(timeout_s=30)


def test_many_at_once(handle: serve.handle.DeploymentHandle) -> None:
    answers = [handle.remote(chat(number, "At once")) for number in range(30)]
    assert len({answer.result(timeout_s=30) for answer in answers}) == 3
