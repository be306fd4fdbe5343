from __future__ import annotations

import pickle

import pytest

from spakky.tracing import error
from spakky.tracing.error import (
    AbstractSpakkyTracingError,
    InvalidBaggageError,
    InvalidTraceparentError,
    InvalidTraceStateError,
    MissingExtraError,
    WrongUseError,
)

BUILT_IN = {
    InvalidTraceparentError: ValueError,
    InvalidTraceStateError: ValueError,
    InvalidBaggageError: ValueError,
    WrongUseError: TypeError,
    MissingExtraError: ModuleNotFoundError,
}
every_error = pytest.mark.parametrize("kind", BUILT_IN)


def test_these_are_all_errors_of_the_library() -> None:
    named = {getattr(error, name) for name in error.__all__}

    assert named == {AbstractSpakkyTracingError, *BUILT_IN}


@every_error
def test_an_error_is_caught_as_ours_and_as_the_built_in_one(kind: type[AbstractSpakkyTracingError]) -> None:
    for caught in (AbstractSpakkyTracingError, BUILT_IN[kind]):
        with pytest.raises(caught):
            raise kind


@every_error
def test_an_error_has_a_sentence_of_its_own_until_it_is_given_one(
    kind: type[AbstractSpakkyTracingError],
) -> None:
    assert str(kind()) == kind().message == kind.message
    assert kind.message
    assert str(kind("what went wrong")) == kind("what went wrong").message == "what went wrong"
    assert kind.message != "what went wrong"


@every_error
def test_an_error_is_pickled_with_its_sentence(kind: type[AbstractSpakkyTracingError]) -> None:
    again = pickle.loads(pickle.dumps(kind("what went wrong")))  # noqa: S301 - pickled here

    assert type(again) is kind
    assert again.message == str(again) == "what went wrong"
