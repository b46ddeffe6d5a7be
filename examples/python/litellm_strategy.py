"""LiteLLM's router with p3sched as its routing strategy.

    pip install p3sched litellm

    router = litellm.Router(model_list=[…])
    PrefixCacheStrategy(router).install()

LiteLLM keeps its retries, cool-downs, budgets and API; p3sched chooses among the deployments of a model that are left.
"""

import json
import time
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.router_utils.cooldown_handlers import async_get_cooldown_deployments, get_cooldown_deployments
from litellm.types.router import CustomRoutingStrategyBase

from p3sched import Request, Scheduler

# What a request carries in its metadata: its id from the pick to its end, and the endpoints it was sent to.
ID = "p3sched_id"
TRIED = "p3sched_tried"


class PrefixCacheStrategy(CustomRoutingStrategyBase):
    """Chooses the deployment whose engine holds the longest prefix of the prompt and is not too busy."""

    def __init__(self, router: litellm.Router, scheduler: Scheduler | None = None) -> None:
        self.router = router
        self.scheduler = scheduler or Scheduler()
        self.scheduler.set_endpoints({endpoint_of(deployment) for deployment in router.model_list})

    def install(self) -> None:
        """Makes the router ask this strategy, and LiteLLM tell it what became of its answers."""
        self.router.set_custom_routing_strategy(self)
        litellm.logging_callback_manager.add_litellm_callback(CompletionReport(self.scheduler))

    async def async_get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, str]] | None = None,
        input: str | list[Any] | None = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        cooling = await async_get_cooldown_deployments(self.router, parent_otel_span=None)
        return self.choose(model, messages, input, request_kwargs, cooling)

    def get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, str]] | None = None,
        input: str | list[Any] | None = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        cooling = get_cooldown_deployments(self.router, parent_otel_span=None)
        return self.choose(model, messages, input, request_kwargs, cooling)

    def choose(
        self,
        model: str,
        messages: list[dict[str, str]] | None,
        input: str | list[Any] | None,
        request_kwargs: dict[str, Any] | None,
        cooling: list[str],
    ) -> Any:
        options = {} if request_kwargs is None else request_kwargs
        known = self.router.get_model_list(model_name=model) or []
        deployments = {endpoint_of(deployment): deployment for deployment in known}
        tried = options.setdefault("metadata", {}).setdefault(TRIED, [])
        left = [name for name in deployments if name not in tried and model_id(deployments[name]) not in cooling]
        prompt = {"input": input} if messages is None else {"messages": messages, "tools": options.get("tools")}
        path = "/v1/embeddings" if messages is None else "/v1/chat/completions"
        body = json.dumps({"model": model, **prompt}).encode()
        decision = self.scheduler.pick(Request.from_body(path, body, subset=left or list(deployments)))
        options["metadata"][ID] = decision.id
        tried.append(decision.endpoint)
        return deployments[decision.endpoint]


class CompletionReport(CustomLogger):
    """Tells the scheduler when a request's first token came, and how the request ended."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self.scheduler = scheduler

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self.log_success_event(kwargs, response_obj, start_time, end_time)

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self.log_failure_event(kwargs, response_obj, start_time, end_time)

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        if (id := id_of(kwargs)) is None:
            return
        first = kwargs.get("completion_start_time")
        if kwargs.get("stream") and isinstance(first, datetime):
            ago = (datetime.now(first.tzinfo) - first).total_seconds()
            self.scheduler.first_token(id, now=time.monotonic_ns() - int(ago * 1e9))
        usage = getattr(response_obj, "usage", None)
        details = getattr(usage, "prompt_tokens_details", None)
        self.scheduler.complete(id, cached_tokens=getattr(details, "cached_tokens", None))

    def log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        if (id := id_of(kwargs)) is not None:
            self.scheduler.complete(id, success=False)


def id_of(kwargs: dict[str, Any]) -> int | None:
    return (kwargs["litellm_params"].get("metadata") or {}).get(ID)


def model_id(deployment: Any) -> str:
    return deployment["model_info"]["id"]


def endpoint_of(deployment: Any) -> str:
    """`host:port` of a deployment's engine."""
    return urlsplit(deployment["litellm_params"]["api_base"]).netloc
