"""Prompts from text files: one per line, in UTF-8, UTF-16 or UTF-32."""

from __future__ import annotations

import codecs
from pathlib import Path

ENCODINGS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def read_lines(file: Path) -> list[str]:
    """Return the prompts of a text file, one per line, without outer whitespace or blank lines.

    Only newlines end a line: form feeds and other separators belong to the text. A byte-order
    mark does not; it also tells UTF-16 and UTF-32.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is in another encoding, or contains no prompt.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"the file {str(file)!r} does not exist; pass a text file with one prompt per line."
        )
    data = file.read_bytes()
    encoding = next((name for mark, name in ENCODINGS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = None
    if text is None or 4 * text.count("\0") > len(text):  # UTF-16 without a mark: half are NUL
        raise ValueError(
            f"{str(file)!r} must be UTF-8 text with one prompt per line; it is not UTF-8: save it "
            "as UTF-8."
        )
    lines = [line.strip() for line in text.split("\n")]
    if not (prompts := [line for line in lines if line]):
        raise ValueError(f"{str(file)!r} must contain at least one prompt; all lines are blank.")
    return prompts
