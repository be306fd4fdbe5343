"""Celery's transport where there is no broker: each message is a file."""

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):
    """Kombu's own channel, but a message's file gets its name when it is complete.

    Kombu 5.7 writes into the named file, and a worker that takes it too early ends, because it is empty.
    """

    def _put(self, queue: str, payload: object, **_: Any) -> None:  # type: ignore[override]  # noqa: ANN401 - as kombu has it
        file = Path(self.data_folder_out, f"{time.monotonic_ns()}_{uuid4()}.{queue}.msg")
        unfinished = file.with_suffix(".part")
        unfinished.write_text(dumps(payload))
        unfinished.rename(file)


class Transport(filesystem.Transport):
    """Kombu's own transport with these channels."""

    Channel = Channel
