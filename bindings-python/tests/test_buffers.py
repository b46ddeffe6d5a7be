"""Bodies and token ids in every form that Python has for them."""

import array
import threading

import numpy
import pytest

import p3sched
from p3sched import Request, Scheduler

BODY = b'{"model": "llama", "prompt": "Once upon a time"}'
TOKENS = [0, 1, 77, 65_535]


@pytest.mark.parametrize(
    "body", [BODY, bytearray(BODY), memoryview(BODY), array.array("B", BODY), numpy.frombuffer(BODY, numpy.uint8)]
)
def test_bodies(body: bytes) -> None:
    assert Request.from_body("/v1/completions", body) == Request.from_body("/v1/completions", BODY)
    scheduler = Scheduler()
    scheduler.add_endpoint("a:1")
    assert scheduler.pick_body("/v1/completions", body).prompt_tokens == 4


def test_views_with_gaps() -> None:
    every_other = memoryview(b"".join(bytes([byte, 0]) for byte in BODY))[::2]
    assert Request.from_body("/v1/completions", every_other).prompt == b"Once upon a time"


def test_text_is_no_body() -> None:
    with pytest.raises(TypeError, match="bytes-like"):
        Request.from_body("/v1/completions", BODY.decode())  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["uint16", "int32", "uint32", "int64", "uint64"])
def test_numpy_tokens(dtype: str) -> None:
    assert Request("m", tokens=numpy.array(TOKENS, dtype)).prompt == TOKENS
    assert Request("m", tokens=numpy.array(TOKENS, dtype)[::2]).prompt == TOKENS[::2]


@pytest.mark.parametrize("code", ["H", "i", "I", "l", "L", "q", "Q"])
def test_array_tokens(code: str) -> None:
    assert Request("m", tokens=array.array(code, TOKENS)).prompt == TOKENS
    assert Request("m", tokens=memoryview(array.array(code, TOKENS))).prompt == TOKENS


def test_sequences_of_tokens() -> None:
    assert Request("m", tokens=TOKENS) == Request("m", tokens=tuple(TOKENS))
    assert Request("m", tokens=range(4)).prompt == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("tokens", "value"),
    [
        ([-1], ""),
        ([2**32], ""),
        ([2**70], ""),
        (array.array("i", [7, -1]), "`-1`"),
        (array.array("q", [7, 2**32]), "`4294967296`"),
        (array.array("q", [-(2**40)]), "`-1099511627776`"),
        (numpy.array([7, 2**63], "uint64"), "`9223372036854775808`"),
    ],
)
def test_tokens_out_of_range(tokens: list[int], value: str) -> None:
    with pytest.raises(p3sched.InvalidRequest, match=f"token ids must be 0 to 4294967295: .*{value}"):
        Request("m", tokens=tokens)


@pytest.mark.parametrize("tokens", [b"1234", bytearray(4), "1234", ["1"], numpy.ones(4), numpy.ones((2, 2), int), 7])
def test_what_are_no_tokens(tokens: list[int]) -> None:
    with pytest.raises(TypeError):
        Request("m", tokens=tokens)


def test_threads_share_a_scheduler() -> None:
    scheduler = Scheduler()
    scheduler.set_endpoints(["a:1", "b:1"])
    large = b'{"model": "llama", "prompt": "' + b"x" * 200_000 + b'"}'
    ids: list[int] = []

    def work(body: bytes) -> None:
        for _ in range(200):
            decision = scheduler.pick_body("/v1/completions", body)
            ids.append(decision.id)
            scheduler.complete(decision.id)

    threads = [threading.Thread(target=work, args=[body]) for body in (BODY, BODY, large, large)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 800
    assert scheduler.stats()["requests_in_flight"] == 0
