"""The API as Python sees it."""

import json
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

import p3sched
from p3sched import Decision, Request, Scheduler, errors

BODY = json.dumps({"model": "llama", "messages": [{"role": "user", "content": "Tell me about the sea. " * 30}]}).encode()
CHAT = "/v1/chat/completions"
RANGES = {
    "u32": "must be a whole number from 0 to 4294967295",
    "u64": "must be a whole number from 0 to 18446744073709551615",
    "i32": "must be a whole number from -2147483648 to 2147483647",
}


def scheduler_of(*names: str) -> Scheduler:
    scheduler = Scheduler()
    scheduler.set_endpoints(names)
    return scheduler


def test_configurations() -> None:
    default = Scheduler().config
    assert default["preset"] == "default"
    assert Scheduler({"preset": "latency"}).config == Scheduler("latency").config == Scheduler(preset="latency").config
    both = Scheduler({"preset": "latency", "seed": 3}, seed=4, load_gate_seconds=None).config
    assert (both["preset"], both["seed"], both["load_gate_seconds"]) == ("latency", 4, None)
    assert Scheduler(default).config == default
    assert {name for name in p3sched.presets()} >= {"default", "latency", "round-robin"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("no-such", "invalid configuration: unknown preset `no-such`, expected one of: default, "),
        ({"sed": 1}, "invalid configuration: unknown field `sed`, expected one of "),
        ({"seed": -1}, "invalid configuration: seed must be a whole number from 0: `-1`"),
        ({"block_size_tokens": 0}, "invalid configuration: block_size_tokens must be 1 to 1024: `0`"),
    ],
)
def test_bad_configurations_are_named(config: p3sched.types.SchedulerConfig | str, message: str) -> None:
    with pytest.raises(p3sched.InvalidConfig) as raised:
        Scheduler(config)
    assert str(raised.value).startswith(message)
    assert "line" not in str(raised.value)


def test_a_configuration_of_another_type_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        Scheduler(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Scheduler(seed=object())  # type: ignore[arg-type]


NAN = float("nan")
INFINITY = float("inf")


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda s: Request("m", subset="abc"), TypeError, "subset must be a list of `str`: `'abc'`"),
        (lambda s: Request("m", subset=["a", 5]), TypeError, "subset must be a list of `str`: `['a', 5]`"),  # type: ignore[list-item]
        (lambda s: Request("m", priority=1 << 40), ValueError, f"priority {RANGES['i32']}: `1099511627776`"),
        (lambda s: Request("m", priority=1.5), TypeError, f"priority {RANGES['i32']}: `1.5`"),  # type: ignore[arg-type]
        (lambda s: Request("m", tokens="abc"), TypeError, "a buffer of whole numbers or a sequence of `int`: `<class 'str'>`"),  # type: ignore[arg-type]
        (lambda s: Request("m", tokens=[1, "a"]), TypeError, "token ids must be whole numbers: `'a'`"),  # type: ignore[list-item]
        (lambda s: Request("m", tokens=[1, -2]), ValueError, "token ids must be 0 to 4294967295: `-2`"),
        (lambda s: s.complete(1, cached_tokens=-1), ValueError, f"cached_tokens {RANGES['u32']}: `-1`"),
        (lambda s: s.complete(1, prompt_tokens=1 << 32), ValueError, f"prompt_tokens {RANGES['u32']}: `4294967296`"),
        (lambda s: s.complete("x"), TypeError, f"id {RANGES['u64']}: `'x'`"),
        (lambda s: s.first_token(None), TypeError, f"id {RANGES['u64']}: `None`"),
        (lambda s: s.stats(now=-1), ValueError, f"now {RANGES['u64']}: `-1`"),
        (lambda s: s.resume_kv_events("a:1", -1, 0), ValueError, f"rank {RANGES['u32']}: `-1`"),
        (lambda s: s.resume_kv_events("a:1", 0, -1), ValueError, f"next {RANGES['u64']}: `-1`"),
        (lambda s: s.observe("a:1", {"waiting_requests": NAN}), ValueError, "waiting_requests must be a finite number: `nan`"),
        (lambda s: s.observe("a:1", {"waiting_requests": INFINITY}), ValueError, "waiting_requests must be a finite number: `inf`"),
        (lambda s: s.observe("a:1", {"waiting_requests": -INFINITY}), ValueError, "waiting_requests must be a finite number: `-inf`"),
        (lambda s: s.observe("a:1", {"waiting_requests": "x"}), ValueError, "waiting_requests must be a number: `x`"),
        (lambda s: s.observe("a:1", 5), ValueError, "expected names and values of metrics: `5`"),
        (lambda s: s.scrape_failed("a:1", 5), ValueError, "expected a string: `5`"),
        (lambda s: s.add_endpoint({"name": "a", "labels": []}), ValueError, "labels must be a dict: `list`"),
        (lambda s: s.add_endpoint({"name": 5}), ValueError, "name must be a string: `5`"),
        (lambda s: Scheduler({"fallbacks": 1.5}), ValueError, "fallbacks must be a whole number from 0: `1.5`"),  # type: ignore[arg-type]
    ],
)
def test_what_is_wrong_is_named_as_python_names_it(call: Any, exception: type[Exception], message: str) -> None:
    with pytest.raises(exception) as raised:
        call(scheduler_of("a:1"))
    assert str(raised.value).endswith(message)


def test_every_exception_has_its_code() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and value is not errors.Error]
    exceptions = [value for value in classes if issubclass(value, errors.Error)]
    assert len(exceptions) == 9
    for exception in exceptions:
        assert exception.code == exception.__name__
        assert getattr(p3sched, exception.code) is exception


def test_prefixes_stay_together() -> None:
    scheduler = scheduler_of("a:1", "b:1", "c:1")
    first = scheduler.pick_body(CHAT, BODY)
    scheduler.first_token(first.id)
    scheduler.complete(first.id)
    second = scheduler.pick(Request.from_body(CHAT, BODY))
    assert second.endpoint == first.endpoint
    assert second.matched_tokens > 100
    assert second.id > first.id


def test_endpoints_have_labels() -> None:
    scheduler = Scheduler()
    scheduler.add_endpoint("a:1")
    scheduler.add_endpoint({"name": "b:1", "labels": {"zone": "west"}})
    scheduler.remove_endpoint("a:1")
    assert [endpoint["endpoint"] for endpoint in scheduler.stats()["endpoints"]] == ["b:1"]
    with pytest.raises(p3sched.UnknownEndpoint, match="unknown endpoint: `a:1`"):
        scheduler.remove_endpoint("a:1")
    with pytest.raises(TypeError, match="must be a list"):
        scheduler.set_endpoints("b:1")
    assert [endpoint["endpoint"] for endpoint in scheduler.stats()["endpoints"]] == ["b:1"]
    with pytest.raises(p3sched.InvalidConfig, match="unknown field `colour`"):
        scheduler.add_endpoint({"name": "b:1", "colour": {}})  # type: ignore[arg-type]


def test_route_completes_by_itself() -> None:
    scheduler = scheduler_of("a:1")
    with scheduler.route(CHAT, BODY, explain=True) as decision:
        assert decision.explanation is not None
        assert scheduler.stats()["requests_in_flight"] == 1
    with pytest.raises(KeyError), scheduler.route(CHAT, BODY):
        raise KeyError("the engine is gone")
    with scheduler.route(CHAT, BODY) as decision:
        scheduler.complete(decision.id, cached_tokens=96)
    stats = scheduler.stats()
    assert stats["requests_in_flight"] == 0
    assert (stats["counters"]["completed_requests"], stats["counters"]["failed_requests"]) == (3, 1)
    assert stats["endpoints"][0]["actual_cached_tokens"] == 96


def test_a_route_serves_one_statement_at_a_time() -> None:
    scheduler = scheduler_of("a:1")
    route = scheduler.route(CHAT, BODY)
    with pytest.raises(KeyError), route:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="one `with` statement at a time"), route:
                raise AssertionError("never entered")
        assert scheduler.stats()["requests_in_flight"] == 1
        raise KeyError("of the caller")
    with route:
        assert scheduler.stats()["requests_in_flight"] == 1
    stats = scheduler.stats()
    assert (stats["requests_in_flight"], stats["counters"]["completed_requests"]) == (0, 2)
    unready = Scheduler().route(CHAT, BODY)
    for _ in range(2):
        with pytest.raises(p3sched.NoEndpoints), unready:
            raise AssertionError("never entered")


def test_a_route_entered_by_two_threads_books_one_request() -> None:
    scheduler = scheduler_of("a:1")
    body = json.dumps({"model": "llama", "prompt": "x" * (1 << 20)}).encode()
    for _ in range(10):
        route, barrier = scheduler.route("/v1/completions", body), Barrier(4)

        def enter(route: p3sched.Route = route, barrier: Barrier = barrier) -> bool:
            barrier.wait()
            try:
                route.__enter__()
            except RuntimeError:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(lambda _: enter(), range(4))) == 1
        assert scheduler.stats()["requests_in_flight"] == 1
        route.__exit__(None, None, None)
        assert scheduler.stats()["requests_in_flight"] == 0


def test_time_is_the_monotonic_clock_or_an_argument() -> None:
    scheduler = scheduler_of("a:1")
    scheduler.observe("a:1", {"waiting_requests": 3})
    age = scheduler.stats(now=time.monotonic_ns() + 2_000_000_000)["endpoints"][0]["metrics_age_seconds"]
    assert age is not None and 2.0 <= age < 3.0
    scheduler.observe("a:1", {"waiting_requests": 3}, now=5)
    assert scheduler.stats(now=1_000_000_005)["endpoints"][0]["metrics_age_seconds"] == 1.0


def test_decisions_are_values() -> None:
    scheduler = scheduler_of("a:1", "b:1")
    decision = scheduler.pick_body(CHAT, BODY, explain=True)
    copy = pickle.loads(pickle.dumps(decision))
    assert copy == decision and hash(copy) == hash(decision)
    assert copy.explanation == decision.explanation
    assert str(copy.explanation) == str(decision.explanation)
    assert copy != scheduler.pick_body(CHAT, BODY)
    assert decision != "a decision"
    assert eval(repr(decision), {"Decision": Decision}) != decision  # the explanation is left out
    assert decision.to_dict()["explanation"] is decision.explanation
    assert decision.explanation is decision.explanation
    plain = scheduler.pick_body(CHAT, BODY)
    assert eval(repr(plain), {"Decision": Decision}) == plain
    assert plain.explanation is None and "explanation" not in plain.to_dict()
    assert pickle.loads(pickle.dumps(plain)) == plain


def test_explanations_are_dicts_and_tables() -> None:
    scheduler = scheduler_of("a:1", "b:1")
    before = scheduler.stats()["counters"]
    decision = scheduler.explain(Request("llama", text="Hi"))
    assert decision.id == 0 and scheduler.stats()["counters"] == before
    explanation = decision.explanation
    assert explanation is not None
    assert isinstance(explanation, dict) and json.loads(json.dumps(explanation)) == explanation
    assert {score["scorer"] for score in explanation["endpoints"][0]["scores"]} >= {"prefix-cache-scorer"}
    assert len(explanation.text.splitlines()) == 4 and explanation.text == str(explanation)


def test_requests() -> None:
    request = Request("m", text="Hi", adapter="sql", cache_salt="s", session="u", priority=-1, stream=True, subset=["a"])
    assert (request.model, request.adapter, request.cache_salt, request.session) == ("m", "sql", "s", "u")
    assert (request.priority, request.stream, request.subset, request.explain) == (-1, True, ["a"], False)
    assert request.prompt == b"Hi" and repr(request) == '<Request model="m" prompt=2 bytes>'
    assert request != Request("m", text="Hi") and Request("m", text="Hi") == Request("m", text=b"Hi")
    body = Request.from_body(CHAT, BODY, subset=["a:1"], explain=True, session="u", priority=2)
    assert (body.subset, body.explain, body.session, body.priority) == (["a:1"], True, "u", 2)
    with pytest.raises(TypeError, match="either"):
        Request("m", text="Hi", tokens=[1])


def test_a_subset_without_endpoints_names_the_filter() -> None:
    scheduler = scheduler_of("a:1")
    with pytest.raises(p3sched.NoEligibleEndpoint, match="filter `subset-filter` removed the last of 1"):
        scheduler.pick(Request("m", text="Hi", subset=["b:1"]))


def test_reports_about_unknown_requests() -> None:
    scheduler = scheduler_of("a:1")
    with pytest.raises(p3sched.UnknownRequest, match="`7`"):
        scheduler.first_token(7)
    with pytest.raises(LookupError):
        scheduler.complete(7, success=False)
    with pytest.raises(p3sched.InvalidRequest, match="id must be a whole number from 0 to 18446744073709551615: `-1`"):
        scheduler.complete(-1)


def test_engines_that_do_not_answer() -> None:
    scheduler = scheduler_of("a:1", "b:1")
    scheduler.scrape_failed("a:1", "unreachable")
    assert {scheduler.pick(Request("m", text=f"{number}")).endpoint for number in range(9)} == {"b:1"}
    with pytest.raises(p3sched.InvalidMetrics, match="unknown variant `gone`"):
        scheduler.scrape_failed("a:1", "gone")  # type: ignore[arg-type]


def test_snapshots() -> None:
    scheduler = scheduler_of("a:1", "b:1")
    first = scheduler.pick_body(CHAT, BODY)
    restarted = Scheduler()
    restarted.restore(memoryview(scheduler.snapshot()))
    restarted.set_endpoints(["a:1", "b:1"])
    second = restarted.pick_body(CHAT, BODY)
    assert second.endpoint == first.endpoint and second.matched_tokens > 100
    with pytest.raises(p3sched.InvalidSnapshot):
        restarted.restore(b"nothing")


def test_repr() -> None:
    assert repr(scheduler_of("a:1")) == "<Scheduler endpoints=1 requests_in_flight=0>"
