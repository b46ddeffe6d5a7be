"""A streaming gateway for OpenAI-compatible engines: FastAPI in front, p3sched inside, httpx behind.

    pip install p3sched[aio,asgi] fastapi uvicorn
    ENDPOINTS=10.0.0.1:8000,10.0.0.2:8000 uvicorn gateway:app

The middleware picks before a handler runs and reports what becomes of the answer. The handler only forwards: to the chosen
endpoint, and to the fallbacks in their order where a connection fails.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

from p3sched import Decision, Scheduler
from p3sched.aio import MetricsPoller
from p3sched.asgi import SERVED_BY_KEY, SchedulerMiddleware

# What belongs to one connection or is written anew.
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "host", "content-length", "date", "server"}

scheduler = Scheduler(fallbacks=2)
scheduler.set_endpoints(os.environ["ENDPOINTS"].split(","))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # As many connections as there are requests: one that waited for another's end would be picked for too early.
    client = httpx.AsyncClient(timeout=httpx.Timeout(600, connect=2), limits=httpx.Limits())
    async with client, MetricsPoller(scheduler):
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(SchedulerMiddleware, scheduler=scheduler)


@app.post("/v1/{path:path}")
async def forward(path: str, request: Request) -> StreamingResponse:
    decision: Decision = request.scope["p3sched"]
    body = await request.body()
    for endpoint in (decision.endpoint, *decision.fallbacks):
        try:
            answer = await stream(request, endpoint, body)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            scheduler.scrape_failed(endpoint, "unreachable" if isinstance(error, httpx.ConnectError) else "failed")
        else:
            request.scope[SERVED_BY_KEY] = endpoint
            return answer
    raise HTTPException(502, "no endpoint can be reached")


async def stream(request: Request, endpoint: str, body: bytes) -> StreamingResponse:
    """Passes an answer on as it comes; raw, so that nothing is unpacked or held back."""
    client: httpx.AsyncClient = request.app.state.client
    headers = {name: value for name, value in request.headers.items() if name not in HOP_BY_HOP}
    url = request.url.replace(scheme="http", netloc=endpoint)
    sent = client.build_request("POST", str(url), content=body, headers=headers)
    answer = await client.send(sent, stream=True)
    passed = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
    return StreamingResponse(
        answer.aiter_raw(),
        status_code=answer.status_code,
        headers={**passed, "x-p3sched-endpoint": endpoint},
        background=BackgroundTask(answer.aclose),
    )


@app.get("/stats")
async def stats() -> dict[str, object]:
    return dict(scheduler.stats())
