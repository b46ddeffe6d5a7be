"""A request router for Ray Serve: p3sched chooses the replica of a deployment.

    pip install p3sched ray[serve]

    @serve.deployment(num_replicas=4, request_router_config=RequestRouterConfig(
        request_router_class="ray_serve_router:PrefixCacheRouter"))
    class Engine: ...

Ray keeps its replicas, its queues and its handles. The router reads the prompt from a request's first argument: a body as
`bytes`, a dict such as a client of OpenAI sends, or an object with `messages` or `prompt` as Ray Serve LLM has them.
"""

import json
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from p3sched import Error, Request, Scheduler


class PrefixCacheRouter(RequestRouter):
    """Sends a request to the replica that holds the longest prefix of its prompt and is not too busy."""

    def initialize_state(self, **config: Any) -> None:
        """Keyword arguments of the deployment's `request_router_kwargs` are the scheduler's configuration."""
        self.scheduler = Scheduler(**config)
        self.in_flight: dict[str, int] = {}

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        self.scheduler.set_endpoints([replica.replica_id.to_full_id_str() for replica in replicas])
        super().update_replicas(replicas)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The chosen replica first, then all others: Ray goes on where one takes no more requests."""
        if pending_request is None:
            return [candidate_replicas]
        candidates = {replica.replica_id.to_full_id_str(): replica for replica in candidate_replicas}
        try:
            decision = self.scheduler.pick(request_of(pending_request, list(candidates)))
        except Error:  # what is no request that it knows goes where Ray finds room
            return [candidate_replicas]
        id = pending_request.metadata.internal_request_id
        if id in self.in_flight:  # Ray asks again when all were busy
            self.scheduler.complete(self.in_flight[id], success=False)
        self.in_flight[id] = decision.id
        chosen = candidates.pop(decision.endpoint)
        return [[chosen], list(candidates.values())]

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        if (id := self.in_flight.pop(internal_request_id, None)) is not None:
            self.scheduler.complete(id, served_by=replica_id.to_full_id_str())

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        try:
            self.scheduler.remove_endpoint(replica_id.to_full_id_str())
        except Error:
            pass  # it was removed with its deployment
        super().on_replica_actor_died(replica_id)


def request_of(pending: PendingRequest, subset: list[str]) -> Request:
    """What the scheduler sees of a request; one without a prompt is picked by load alone."""
    argument = pending.args[0] if pending.args else next(iter(pending.kwargs.values()), None)
    if isinstance(argument, bytes):
        return Request.from_body("/v1/chat/completions", argument, subset=subset)
    fields = argument if isinstance(argument, dict) else getattr(argument, "__dict__", {})
    for key, path in (("messages", "/v1/chat/completions"), ("prompt", "/v1/completions")):
        if fields.get(key):
            body = {"model": fields.get("model") or pending.metadata.multiplexed_model_id, key: fields[key]}
            return Request.from_body(path, json.dumps(body, default=vars).encode(), subset=subset)
    return Request(pending.metadata.multiplexed_model_id, subset=subset)
