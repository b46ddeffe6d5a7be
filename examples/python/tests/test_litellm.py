"""LiteLLM's router with the strategy, in front of simulated engines."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import litellm
import pytest
from conftest import conversation, free_port

sys.path.insert(0, str(Path(__file__).parents[1]))

from litellm_strategy import PrefixCacheStrategy, endpoint_of


@pytest.fixture(autouse=True)
def no_reports_of_other_tests() -> None:
    litellm.logging_callback_manager._reset_all_callbacks()


def router_of(*endpoints: str) -> tuple[litellm.Router, PrefixCacheStrategy]:
    parameters = [{"model": "openai/simulated", "api_base": f"http://{name}/v1", "api_key": "none"} for name in endpoints]
    models = [{"model_name": "simulated", "litellm_params": parameter} for parameter in parameters]
    router = litellm.Router(model_list=models, num_retries=3, retry_after=0)
    strategy = PrefixCacheStrategy(router)
    strategy.install()
    return router, strategy


def served_by(router: litellm.Router, answer: Any) -> str:
    return endpoint_of(router.get_deployment(answer._hidden_params["model_id"]).model_dump())


async def settled(strategy: PrefixCacheStrategy) -> dict[str, int]:
    """The counters, as soon as LiteLLM has reported every end."""
    for _ in range(500):
        if strategy.scheduler.stats()["requests_in_flight"] == 0:
            break
        await asyncio.sleep(0.02)
    stats = strategy.scheduler.stats()
    assert stats["requests_in_flight"] == 0
    return stats["counters"]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """One for all tests: LiteLLM reports the ends of requests from a task that it starts once."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_a_prefix_stays_and_topics_spread(loop: asyncio.AbstractEventLoop, engines: list[str]) -> None:
    async def scenario() -> None:
        router, strategy = router_of(*engines)
        homes = {}
        for topic in range(6):
            answers = [
                await router.acompletion("simulated", conversation(topic, f"Question {number}"), max_tokens=3)
                for number in range(3)
            ]
            homes[topic] = {served_by(router, answer) for answer in answers}
        assert all(len(home) == 1 for home in homes.values()), homes
        assert set().union(*homes.values()) == set(engines)
        counters = await settled(strategy)
        assert (counters["picks"], counters["completed_requests"], counters["failed_requests"]) == (18, 18, 0)

    loop.run_until_complete(scenario())


def test_streams_are_completed(loop: asyncio.AbstractEventLoop, engines: list[str]) -> None:
    async def scenario() -> None:
        router, strategy = router_of(*engines)
        stream = await router.acompletion("simulated", conversation(1, "Stream"), max_tokens=8, stream=True)
        assert len([chunk async for chunk in stream]) > 3
        assert (await settled(strategy))["completed_requests"] == 1
        chosen = [entry for entry in strategy.scheduler.stats()["endpoints"] if entry["prefill_tokens_per_second"]]
        assert len(chosen) == 1

    loop.run_until_complete(scenario())


def test_an_engine_that_is_gone_is_left_out(loop: asyncio.AbstractEventLoop, engines: list[str]) -> None:
    async def scenario() -> None:
        router, strategy = router_of(engines[0], f"127.0.0.1:{free_port()}")
        for topic in range(6):
            answer = await router.acompletion("simulated", conversation(topic, "Anyone?"), max_tokens=3)
            assert served_by(router, answer) == engines[0]
        assert (await settled(strategy))["failed_requests"] > 0

    loop.run_until_complete(scenario())
