"""Options of a single call, which travel in a header of its message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from spakky.tracing.boundaries.options import CallOptions, Policy, Relation
from spakky.tracing.carriers.celery import CARRIER, RELATION
from spakky.tracing.error import WrongUseError

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Unpack

    from celery.app.task import Context

__all__ = ["call_headers", "is_off_for", "relation_wanted_by", "take_off"]

_OFF: Final = "off"


def call_headers(existing: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]) -> dict[str, Any]:
    """Return headers with options of one call, for `apply_async`, `send_task` and signatures in a canvas.

        order.apply_async(headers=celery.call_headers(relation="link"))
        chain(cook.s(), serve.s().set(headers=celery.call_headers(enabled=False)))

    Args:
        existing: The call's own headers, which stay as they are; `None` for none.
        **options: See `CallOptions`. They travel in the header `x-trace-relation`, which a hooked sender
            takes out again where it is switched off.

    Returns:
        A new dict. It may be used for any number of calls.

    Raises:
        WrongUseError: *existing* cannot be the headers of a message, or an option is not known.
    """
    policy = Policy.of(CallOptions, options)
    _check(policy)
    headers = CARRIER.copy(existing)
    if policy.enabled is False:
        CARRIER.set(headers, RELATION, _OFF)
    elif "relation" in options:
        CARRIER.set(headers, RELATION, str(policy.relation))
    return headers


def take_off(headers: MutableMapping[str, Any]) -> bool:
    """Tell whether a call is switched off by its *headers*, and take the word for it out of them."""
    if headers.get(RELATION) != _OFF:
        return False
    del headers[RELATION]
    return True


def is_off_for(request: Context) -> bool:
    """Tell whether an eager call is switched off; in a message nobody but a hooked sender may say so."""
    return bool(request.is_eager) and _wanted_by(request) == _OFF


def relation_wanted_by(request: Context) -> Relation | None:
    """Return the relation that a call asked for, `None` if it did not."""
    wanted = _wanted_by(request)
    return cast("Relation", wanted) if wanted in get_args(Relation) else None


def _check(policy: Policy) -> None:
    """Refuse what stands for many messages: a call is one."""
    if not isinstance(policy.relation, str):
        message = f"relation= of a call takes 'child', 'link' or 'root', got {type(policy.relation).__name__}"
        raise WrongUseError(message)
    if not isinstance(policy.enabled, bool):
        message = f"enabled= of a call takes True or False, got {type(policy.enabled).__name__}"
        raise WrongUseError(message)


def _wanted_by(request: Context) -> object:
    wanted = request.get(RELATION)
    if wanted is None and isinstance(request.headers, Mapping):  # an eager call has its headers there only
        wanted = request.headers.get(RELATION)
    return wanted if isinstance(wanted, str) else None
