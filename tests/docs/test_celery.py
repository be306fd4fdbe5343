"""The code of `docs/celery.md` as it stands, with an address and the name of a queue put in."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from docs.pages import programs_of
from docs.running import printed_by

if TYPE_CHECKING:
    from pathlib import Path


def test_options_of_celery(amqp_url: str, tmp_path: Path) -> None:
    (code,) = programs_of("docs/celery.md")
    named = code.replace("amqp://guest:guest@localhost/", amqp_url).replace(
        "celery.install(", f'app.conf.task_default_queue = "shop-{uuid4().hex}"\ncelery.install('
    )

    assert printed_by(named, tmp_path) == ["sent"]
