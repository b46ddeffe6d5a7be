"""One long session, the same in every language: every result and every error is compared exactly.

What the lines of `core/testdata/session.jsonl` hold is written at the top of `core/tests/session.rs`.
"""

import json
from pathlib import Path
from typing import Any

from p3sched import Error, Request, Scheduler

SESSION = Path(__file__).parents[2] / "core/testdata/session.jsonl"


def test_session() -> None:
    player = Player()
    lines = SESSION.read_text().splitlines()
    assert len(lines) > 500
    for number, line in enumerate(lines, 1):
        call = json.loads(line)
        expected = {key: call.pop(key) for key in ("result", "error") if key in call}
        assert player.play(call) == expected, f"line {number}: {line}"
    assert player.picked_bodies > 50


class Player:
    """Carries out calls."""

    scheduler: Scheduler
    saved: bytes
    picked_bodies = 0

    def play(self, call: dict[str, Any]) -> dict[str, Any]:
        try:
            # Through JSON, so that lists and tuples are the same.
            return {"result": json.loads(json.dumps(self.result(call.pop("op"), **call)))}
        except Error as error:
            return {"error": {"code": error.code, "message": str(error)}}

    def result(self, op: str, **arguments: Any) -> Any:
        if op == "new":
            self.scheduler = Scheduler(arguments["config"])
            return None
        if op == "pick" and arguments["request"].keys() <= {"path", "body", "explain"} and "path" in arguments["request"]:
            fields = {**arguments["request"], "body": arguments["request"].get("body", "").encode()}
            self.picked_bodies += 1
            return self.scheduler.pick_body(**fields, now=arguments["now"]).to_dict()
        if op in ("pick", "explain"):
            decision = getattr(self.scheduler, op)(request_of(**arguments["request"]), now=arguments["now"])
            return decision.to_dict()
        if op == "complete":
            # A missing `success` in an outcome is a failure, that of the method is not.
            outcome = {"success": False, **arguments["outcome"]}
            return self.scheduler.complete(arguments["id"], **outcome, now=arguments["now"])
        if op == "snapshot":
            self.saved = self.scheduler.snapshot()
            return len(self.saved)
        if op == "restore":
            text = arguments["bytes"]
            return self.scheduler.restore(self.saved if text == "saved" else text.encode())
        if op == "stats":
            stats: dict[str, Any] = {**self.scheduler.stats(**arguments)}
            del stats["index"]["bytes"]
            return stats
        if op == "ingest_metrics":
            arguments["page"] = arguments["page"].encode()
        return getattr(self.scheduler, op)(**arguments)


def request_of(path: str | None = None, body: str = "", **fields: Any) -> Request:
    if path is None:
        return Request(**fields)
    return Request.from_body(path, body.encode(), **fields)
