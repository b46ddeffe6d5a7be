"""Exceptions: few, stable, and the same in every language.

A call that raises one has changed nothing.
"""

from typing import ClassVar


class Error(Exception):
    """What every exception of this package derives from.

    >>> import p3sched
    >>> try:
    ...     p3sched.Scheduler().pick(p3sched.Request("llama", text="Hi"))
    ... except p3sched.Error as error:
    ...     error.code, str(error)
    ('NoEndpoints', 'no endpoints: add at least one before picking')
    """

    code: ClassVar[str] = "Error"
    """The stable name of this kind of error, the same in every language."""


class InvalidConfig(Error, ValueError):
    """The configuration holds a value that cannot work; the message names it and what would be right."""

    code = "InvalidConfig"


class InvalidRequest(Error, ValueError):
    """The request cannot be read; the message names the place and the reason."""

    code = "InvalidRequest"


class NoEndpoints(Error):
    """The scheduler has no endpoints at all."""

    code = "NoEndpoints"


class NoEligibleEndpoint(Error):
    """There are endpoints, but a filter left none of them; the message names the filter."""

    code = "NoEligibleEndpoint"


class UnknownEndpoint(Error, LookupError):
    """No endpoint of this name is known."""

    code = "UnknownEndpoint"


class UnknownRequest(Error, LookupError):
    """This id was never handed out by a pick of this scheduler."""

    code = "UnknownRequest"


class InvalidMetrics(Error, ValueError):
    """The metrics cannot be read; the message names the line or field and the reason."""

    code = "InvalidMetrics"


class InvalidKvEvent(Error, ValueError):
    """A KV event, or the payload that should hold some, cannot be used; the message says why."""

    code = "InvalidKvEvent"


class InvalidSnapshot(Error, ValueError):
    """The snapshot is truncated, corrupted or of another format."""

    code = "InvalidSnapshot"
