"""The command line as a whole."""

from __future__ import annotations

import click

from spakky.tracing.cli.explain.command import explain
from spakky.tracing.cli.tail.command import tail
from spakky.tracing.cli.view.command import view

__all__ = ["spakky_tracing"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="spakky-tracing")
def spakky_tracing() -> None:
    """See the trace: what a header means, how a request went, which service loses it."""


spakky_tracing.add_command(tail)
spakky_tracing.add_command(explain)
spakky_tracing.add_command(view)
