"""`Explanation`: why a decision was made."""

from typing import Any


class Explanation(dict[str, Any]):
    """How every endpoint was rated for one request: a plain dict, whose ``str()`` is a table for a terminal.

    ``p3sched.types.ExplanationFields`` lists its keys.

    >>> from p3sched import Scheduler
    >>> scheduler = Scheduler()
    >>> scheduler.set_endpoints(["10.0.0.1:8000", "10.0.0.2:8000"])
    >>> decision = scheduler.pick_body("/generate", b'{"text": "Hi"}', explain=True)
    >>> decision.explanation["tie_rule"]
    'least-recently-cold'
    >>> print(decision.explanation)  # doctest: +ELLIPSIS
    endpoint                    total   matched   wait s  prefix-cache-scorer ×3...
    """

    text: str
    """The table."""

    def __init__(self, fields: dict[str, Any], text: str) -> None:
        super().__init__(fields)
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[type["Explanation"], tuple[dict[str, Any], str]]:
        return Explanation, (dict(self), self.text)
