"""Examples in docstrings and the quickstart of the README run."""

import doctest
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import p3sched

README = Path(__file__).parents[1] / "README.md"
MODULES = ["p3sched", "p3sched.errors", "p3sched.types", "p3sched._explanation", "p3sched.aio", "p3sched.asgi"]


def documented() -> Iterator[tuple[str, str]]:
    """Everything public with its docstring, the native half included."""
    for name in MODULES:
        module = importlib.import_module(name)
        yield name, module.__doc__ or ""
        for member, value in vars(module).items():
            home = str(getattr(value, "__module__", ""))
            if member.startswith("_") or not (home == name or name == "p3sched" and home.startswith(name)):
                continue
            if inspect.isclass(value) or inspect.isroutine(value):
                yield f"{name}.{member}", inspect.getdoc(value) or ""
            if inspect.isclass(value):
                yield from methods(f"{name}.{member}", value)


def methods(name: str, value: type) -> Iterator[tuple[str, str]]:
    for member, method in vars(value).items():
        if not member.startswith("_") and (inspect.isroutine(method) or inspect.isdatadescriptor(method)):
            yield f"{name}.{member}", inspect.getdoc(method) or ""


@pytest.mark.parametrize(("name", "text"), [pytest.param(*item, id=item[0]) for item in documented()])
def test_examples(name: str, text: str) -> None:
    if not name.startswith("p3sched.types."):
        assert text, f"{name} has no documentation"
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert doctest.DocTestRunner().run(test).failed == 0


def test_there_are_examples() -> None:
    assert sum(">>>" in text for _, text in documented()) > 10


def test_the_quickstart_runs() -> None:
    programs = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(programs) >= 1
    for program in programs:
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_table_of_the_readme_is_complete() -> None:
    text = README.read_text()
    names: list[Any] = [name for name in vars(p3sched.Scheduler) if not name.startswith("_")]
    assert [name for name in names if f"`{name}" not in text and f".{name}" not in text] == []
