"""Token ids to printable strings, and words to token ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

LOOKS_ESCAPED = re.compile(r"\\(?=[abfnrtvxuU\\])")
PLACEHOLDER = re.compile(r"[\[<]\W*(unused|reserved|extra_id)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class TokenStrings:
    """A tokenizer as a dictionary: ids to unambiguous strings, words to single ids.

    `tokenizer` is the model's own; None for a model without one, whose tokens print as `<7>`.
    """

    tokenizer: Any
    d_vocab: int

    def string(self, token_index: int) -> str:
        """Return the text of one token, with its spaces; control characters and bytes escaped."""
        if self.tokenizer is None:
            return f"<{token_index}>"
        piece = self.tokenizer.convert_ids_to_tokens(int(token_index))
        if piece is None:
            return f"<unused {token_index}>"
        text = self.tokenizer.decode([int(token_index)], clean_up_tokenization_spaces=False)
        if piece.startswith("\u2581") and not text.startswith(" "):
            text = " " + text  # sentencepiece drops the space of a first word
        if text == "" or "\ufffd" in text:
            return escaped_controls(_raw_bytes(piece))
        return escaped_controls(LOOKS_ESCAPED.sub(r"\\\\", text))

    def strings(self, token_indices: Iterable[int]) -> list[str]:
        """Return the texts of many tokens."""
        return [self.string(index) for index in token_indices]

    def without_text(self) -> list[bool]:
        """Return for every id whether no text produces it.

        True for special and added tokens, placeholders (`[unused7]`), ids without a token in the
        tokenizer, and lone bytes that do not occur in UTF-8.
        """
        if self.tokenizer is None:
            return [False] * self.d_vocab
        added = set(getattr(self.tokenizer, "all_special_ids", ()))
        added |= set(getattr(self.tokenizer, "added_tokens_decoder", ()))
        pieces = [self.tokenizer.convert_ids_to_tokens(index) for index in range(self.d_vocab)]
        return [
            index in added
            or piece is None
            or piece in NEVER_IN_UTF8
            or bool(PLACEHOLDER.match(piece))
            for index, piece in enumerate(pieces)
        ]

    def single(self, word: str) -> int | None:
        """Return the id of a word that is exactly one token; None if it is several (or none)."""
        if self.tokenizer is None:
            raise ValueError(
                f"the word {word!r} cannot be looked up: the model has no tokenizer; give token "
                "ids, or set model.tokenizer."
            )
        ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or self._is_unknown(ids[0], word):
            return None
        return int(ids[0])

    def _is_unknown(self, token_index: int, word: str) -> bool:
        """Return whether an id is the tokenizer's unknown token, in place of the word."""
        unknown = getattr(self.tokenizer, "unk_token", None)
        return (
            unknown is not None
            and word.strip() != unknown
            and self.tokenizer.convert_ids_to_tokens(token_index) == unknown
        )

    def look_up(self, words: Iterable[str | int]) -> tuple[list[int], list[str]]:
        """Return the ids of the words that are one token, and the words that were dropped.

        Raises:
            IndexError: an id outside the vocabulary.
            ValueError: no word is a single token.
        """
        if isinstance(words, str):
            words = [words]
        ids: list[int] = []
        dropped: list[str] = []
        for word in words:
            index = self.single(word) if isinstance(word, str) else int(word)
            if index is None:
                dropped.append(str(word))
            elif not 0 <= index < self.d_vocab:
                raise IndexError(
                    f"token id {index} does not exist: the vocabulary has ids 0 to "
                    f"{self.d_vocab - 1}."
                )
            else:
                ids.append(index)
        if not ids:
            names = ", ".join(repr(word) for word in dropped) or "no words"
            raise ValueError(
                f"none of the words is a single token of this model, got {names}; try them with "
                "(or without) a leading space, or give token ids."
            )
        return ids, dropped


def visible(token: str) -> str:
    """Return a token for tables and figures, with leading and trailing spaces as open boxes."""
    left, inner, right = outer_spaces(token)
    return "\u2423" * left + inner + "\u2423" * right or "\u2205"


def outer_spaces(text: str) -> tuple[int, str, int]:
    """Return the number of leading spaces, the text between, and the number of trailing spaces."""
    rest = text.lstrip(" ")
    inner = rest.rstrip(" ")
    return len(text) - len(rest), inner, len(rest) - len(inner)


def named(words: Sequence[str], most: int = 8) -> str:
    """Return a list of words for a sentence: the first ones quoted, the rest as a count."""
    text = ", ".join(repr(word) for word in words[:most])
    return text if len(words) <= most else f"{text} and {len(words) - most} more"


def escaped_controls(text: str) -> str:
    """Return a text on one line: control characters, invisible ones and surrogates escaped."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if 0x7F < ord(character) < 0x100:  # `\\xa0` is a lone byte
        return f"\\u{ord(character):04x}"
    return character.encode("unicode_escape").decode("ascii")


def _raw_bytes(piece: str) -> str:
    """Return a byte-level piece with its bytes as hexadecimal escapes; other pieces unchanged."""
    table = _byte_of_character()
    if all(character in table for character in piece):
        raw = bytes(table[character] for character in piece)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "".join(chr(b) if 32 <= b < 127 else f"\\x{b:02x}" for b in raw)
    return piece


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """Return the byte that each character represents in byte-level BPE.

    Printable Latin-1 characters represent their own byte; characters from U+0100 on the others.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    table = {chr(byte): byte for byte in plain}
    return table | {chr(0x100 + position): byte for position, byte in enumerate(others)}


NEVER_IN_UTF8 = frozenset(
    character
    for character, byte in _byte_of_character().items()
    if byte in (0xC0, 0xC1) or byte > 0xF4
)
