"""The corpus of the core: hashes, bodies, metrics pages, usage, KV events."""

import json
from pathlib import Path
from typing import Any

import pytest

import p3sched
from p3sched import KvEventBatch, Request, Scheduler, UsageScanner

CORPUS = Path(__file__).parents[2] / "core/testdata"


def cases(name: str) -> list[Any]:
    found = json.loads((CORPUS / name).read_text())
    assert len(found) > 5
    return [pytest.param(case, id=case["name"]) for case in found]


@pytest.mark.parametrize("case", cases("block_hashes.json"))
def test_block_hashes(case: dict[str, Any]) -> None:
    text, tokens = case["prompt_hex"], case["prompt_tokens"]
    request = Request(
        case["model"],
        text=None if text is None else bytes.fromhex(text),
        tokens=tokens,
        adapter=case["adapter"],
        cache_salt=case["cache_salt"],
    )
    hashes = p3sched.block_hashes(
        request,
        block_size_tokens=case["block_tokens"],
        bytes_per_token=case["bytes_per_token"],
        max_prefix_tokens=case["max_prefix_tokens"],
    )
    assert [f"{hash:016x}" for hash in hashes] == case["hashes"]


@pytest.mark.parametrize("case", cases("bodies.json"))
def test_bodies(case: dict[str, Any]) -> None:
    body = case["body"].encode() if "body" in case else bytes.fromhex(case["body_hex"])
    if "error" in case:
        with pytest.raises(p3sched.InvalidRequest) as raised:
            Request.from_body(case["path"], body)
        assert str(raised.value) == f"invalid request: {case['error']}"
        return
    request = Request.from_body(case["path"], body)
    assert request.model == case.get("model", "")
    assert request.prompt == case.get("prompt_tokens", bytes.fromhex(case.get("prompt_hex", "")))
    assert (request.cache_salt, request.session) == (case.get("cache_salt"), case.get("session"))
    assert request.stream == case.get("stream", False)


@pytest.mark.parametrize("case", cases("metrics/pages.json"))
def test_metrics_pages(case: dict[str, Any]) -> None:
    page = case["page"].encode()
    if "error" in case:
        with pytest.raises(p3sched.InvalidMetrics) as raised:
            p3sched.parse_metrics(page)
        assert case["error"] in str(raised.value)
        return
    found = p3sched.parse_metrics(page)
    assert {key: value for key, value in found.items() if value not in (None, [])} == case["metrics"]


def test_captured_metrics_pages() -> None:
    expected = json.loads((CORPUS / "metrics/expected.json").read_text())
    for name, metrics in expected.items():
        assert p3sched.parse_metrics((CORPUS / "metrics" / name).read_bytes()) == metrics, name


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("case", cases("usage/answers.json"))
def test_usage(case: dict[str, Any], chunk: int) -> None:
    scanner = UsageScanner()
    body = case["body"].encode()
    for at in range(0, len(body), chunk):
        scanner.push(body[at : at + chunk])
    keys = ("prompt_tokens", "completion_tokens", "cached_tokens")
    assert scanner.finish() == {key: case[key] for key in keys}


@pytest.mark.parametrize("capture", sorted((CORPUS / "kv-events").glob("*.txt")), ids=lambda path: path.stem)
def test_captured_kv_events(capture: Path) -> None:
    """Decoded batches and the dicts that they stand for make the same index."""
    decoded, plain = (Scheduler(kv_events={"model": "tiny"}) for _ in range(2))
    outcomes = []
    for scheduler in (decoded, plain):
        scheduler.add_endpoint("a:1")
    for line in capture.read_text().splitlines():
        fields = line.split(" ")
        if line.startswith("#") or len(fields) < 3:
            continue
        batch = KvEventBatch.decode(bytes.fromhex(fields[2]), int(fields[1], 16))
        outcomes.append(decoded.apply_kv_batch("a:1", batch, now=0))
        assert plain.apply_kv_batch("a:1", batch.to_dict(), now=0) == outcomes[-1]
        if outcomes[-1]["type"] == "gap":
            for scheduler in (decoded, plain):
                scheduler.resume_kv_events("a:1", batch.rank, batch.sequence)
                scheduler.apply_kv_batch("a:1", batch, now=0)
    assert {"type": "applied"} in outcomes
    assert decoded.stats(now=0) == plain.stats(now=0)
    assert decoded.stats(now=0)["counters"]["kv_events"] > 0
