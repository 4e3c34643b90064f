"""Progress on standard error: a bar for a person, lines for a log, nothing in a batch run's notebook."""

import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 20.0


def printable(text: str, *, lines: bool = False) -> str:
    """Text without control characters, which may come from a file; lines: it may have several."""
    kept = "\n" if lines else ""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


class Progress:
    """Shows `(done, total)` and notes of a long computation; call it with the two numbers.

    In a terminal and in an interactive notebook it is a bar; where standard error is a pipe or a file, a line
    now and then. $FREELIB_PROGRESS may be "off", or the name of a file that lines are appended to.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        self._bar: tqdm | None = None
        self._text, self._done, self._total = "", 0, 0
        self._last_line = 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` parts are finished."""
        self._done, self._total = done, total
        self._show(finished=done == total)

    def note(self, text: str) -> None:
        """What is happening now."""
        self._text = printable(text)
        self._show()

    def _show(self, finished: bool = False) -> None:
        mode = os.environ.get("FREELIB_PROGRESS", "")
        if mode == "off":
            return
        if not mode and (sys.stderr.isatty() or "ipykernel" in sys.modules):
            self._bar = self._bar or tqdm(desc=self.description, file=sys.stderr, leave=False)
            self._bar.total, self._bar.n = self._total, self._done
            self._bar.set_postfix_str(self._text)
        elif finished or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            line = f"{self.description}: {self._done}/{self._total} {self._text}".rstrip() + "\n"
            if mode:
                with Path(mode).open("a", encoding="utf-8") as file:
                    file.write(line)
            else:
                sys.stderr.write(line)
