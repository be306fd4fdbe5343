"""Sentry's SDK in an application, told to leave messages alone."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any, Final

_SENTRY: Final[Any] = import_module("with_sentry")  # found where Celery loads the application from

hook = partial(_SENTRY.hook, propagate_traces=False)
look = _SENTRY.look
enter = _SENTRY.enter
