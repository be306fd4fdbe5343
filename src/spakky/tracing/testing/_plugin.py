"""The plugin of pytest: the fixture `traces`, and an ini option for what leaks.

Every run of pytest loads it where the package is installed, so it loads no more than the core by itself, and
leaves alone whatever does not ask for the fixture.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

import pytest

from spakky.tracing.context import TraceContext

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from spakky.tracing.testing._traces import Traces

__all__ = [
    "pytest_addoption",
    "pytest_configure",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "traces",
]

pytest.register_assert_rewrite("spakky.tracing.testing._carrier_contract")

_INI: Final = "spakky_tracing_leaks"
_CHOICES: Final = ("error", "off")
_RECORDED: Final = pytest.StashKey["Traces"]()
_HAS_FAILED: Final = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option."""
    parser.addini(
        _INI,
        "what becomes of a test with the fixture `traces` that leaves a span open or a trace context behind: "
        "error or off",
        default="error",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a value of the ini option that means nothing."""
    if (choice := config.getini(_INI)) not in _CHOICES:
        message = f"{_INI} takes error or off, got {choice!r}"
        raise pytest.UsageError(message)


@pytest.fixture
def traces(request: pytest.FixtureRequest) -> Iterator[Traces]:
    """Record the spans of this test and of processes that it starts: a `spakky.tracing.testing.Traces`."""
    from spakky.tracing.testing._recording import recorded_traces  # noqa: PLC0415 - the boundaries come with it

    node: pytest.Item = request.node
    with recorded_traces(leaks=False) as recorded:
        node.stash[_RECORDED] = recorded
        yield recorded
        if _minds_leaks(node) and not node.stash.get(_HAS_FAILED, False):
            with _told_by_itself():
                recorded.must_not_leak()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Watch which context the body of a test leaves behind; that of an async test is its task's own."""
    recorded = item.stash.get(_RECORDED, None)
    if recorded is None or not isinstance(item, pytest.Function) or not _minds_leaks(item):
        return (yield)
    body = item.obj
    item.obj = (_watched_async if inspect.iscoroutinefunction(body) else _watched)(body, recorded)
    if hasattr(item.instance, "enterAsyncContext"):  # unittest looks up async tests by itself
        setattr(item.instance, item.name, item.obj)
    try:
        return (yield)
    finally:
        item.obj = body


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Note that a test or its setup has failed: then it is no news that it left something open."""
    if call.when != "teardown":
        item.stash[_HAS_FAILED] = call.excinfo is not None


def _minds_leaks(item: pytest.Item) -> bool:
    return bool(item.config.getini(_INI) == "error")


@contextmanager
def _told_by_itself() -> Iterator[None]:
    """Let a test fail without a traceback: what leaked is found when the lines of the test are through."""
    try:
        yield
    except AssertionError as leak:
        raise pytest.fail.Exception(str(leak), pytrace=False) from None


def _watched(body: Callable[..., Any], recorded: Traces) -> Callable[..., Any]:
    @wraps(body)
    def watched(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the test takes
        __tracebackhide__ = True
        before = TraceContext.get()
        result = body(*args, **kwargs)
        with _told_by_itself():
            recorded.must_have_current(before)
        return result

    return watched


def _watched_async(body: Callable[..., Any], recorded: Traces) -> Callable[..., Any]:
    @wraps(body)
    async def watched(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the test takes
        __tracebackhide__ = True
        before = TraceContext.get()
        result = await body(*args, **kwargs)
        with _told_by_itself():
            recorded.must_have_current(before)
        await recorded.settle()
        return result

    return watched
