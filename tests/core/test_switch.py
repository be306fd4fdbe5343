"""The switch for everything, as a call and as an environment variable."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from spakky.tracing.switch import is_switched_on, switch

CODE = """
from spakky.tracing.context import TraceContext
from spakky.tracing.switch import is_switched_on
from spakky.tracing.integrations import aiokafka

with TraceContext.use(TraceContext.new_root()):
    print(is_switched_on(), bool(aiokafka.headers()))
"""


def test_it_is_on_unless_somebody_switches_it_off() -> None:
    assert is_switched_on()


def test_it_can_be_switched_off_and_on_again() -> None:
    switch(on=False)
    try:
        assert not is_switched_on()
    finally:
        switch(on=True)
    assert is_switched_on()


@pytest.mark.parametrize(
    ("value", "on"),
    [
        ("0", False),
        ("false", False),
        (" No ", False),
        ("OFF", False),
        ("1", True),
        ("", True),
        ("true", True),
    ],
)
def test_an_environment_variable_switches_it_off_from_the_start(value: str, *, on: bool) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**environment, "SPAKKY_TRACING_ENABLED": value},
        capture_output=True,
        text=True,
        check=True,
    )

    assert run.stdout.split() == [str(on), str(on)]
