"""What works where nothing but the wheel is installed; run by `make python` in an environment of its own."""

import importlib.metadata
import json
import pickle
import sys

import p3sched
import p3sched.asgi
import p3sched.types

scheduler = p3sched.Scheduler()
scheduler.set_endpoints(["10.0.0.1:8000", "10.0.0.2:8000"])
body = json.dumps({"model": "llama", "prompt": "The same prompt. " * 40}).encode()
with scheduler.route("/v1/completions", body, explain=True) as decision:
    print(decision)
again = scheduler.pick_body("/v1/completions", body)
assert again.endpoint == decision.endpoint and again.matched_tokens > 100
assert pickle.loads(pickle.dumps(decision)) == decision
assert p3sched.__version__ == importlib.metadata.version("p3sched")

others = {package.metadata["Name"] for package in importlib.metadata.distributions()} - {"p3sched", "pip", "setuptools"}
assert not others, others
try:
    import p3sched.aio
except ModuleNotFoundError as missing:
    assert missing.name in ("anyio", "httpx")
else:
    sys.exit("p3sched.aio without its extra")
