"""What a command says when it cannot do what it was asked for."""

from __future__ import annotations

import click

from spakky.tracing.cli.terminal import printable

__all__ = ["Refusal"]


class Refusal(click.ClickException):
    """Ends the command: one sentence on standard error, and exit code 2.

    Args:
        sentence: What is wrong, and what to do about it. It may quote what came from outside.
    """

    exit_code = 2

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))
