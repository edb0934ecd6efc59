"""Muted streams: what other libraries print while they work is kept off the terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any


class MutedStream:
    """A stream that drops what is written to it until it is released, and passes it on later.

    A library may keep the stream (a handler of logging does), so it must work afterwards too.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._muted = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        return len(text) if self._muted else self._stream.write(text)

    def writelines(self, lines: Any) -> None:
        """Write lines, or drop them."""
        for line in lines:
            self.write(line)

    def release(self) -> None:
        """Pass on what is written from now on."""
        self._muted = False


@contextmanager
def muted_libraries() -> Iterator[None]:
    """Drop prints, progress bars, warnings and log messages; settings are restored afterwards.

    Warnings are written to standard error; filters that a library sets when imported are kept.
    """
    streams = MutedStream(sys.stdout), MutedStream(sys.stderr)
    disabled = logging.root.manager.disable
    with (
        redirect_stdout(streams[0]),  # pyright: ignore[reportArgumentType]
        redirect_stderr(streams[1]),  # pyright: ignore[reportArgumentType]
    ):
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
            for stream in streams:
                stream.release()
