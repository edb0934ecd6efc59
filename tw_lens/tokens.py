"""Token ids and the strings people read: the one place where tokens are printed or looked up."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

LOOKS_ESCAPED = re.compile(r"\\(?=[abfnrtvxuU\\])")
FREE = re.compile(r"[\[<]\W*(unused|reserved|extra_id)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class TokenStrings:
    """A tokenizer seen as a dictionary: ids to unambiguous strings, words to single ids.

    `tokenizer` is the model's own (None for a model without one: tokens print as `<7>`).
    """

    tokenizer: Any
    d_vocab: int

    def string(self, token_index: int) -> str:
        """The text of one token: leading spaces kept, control characters and raw bytes escaped."""
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
        """The texts of many tokens."""
        return [self.string(index) for index in token_indices]

    def without_text(self) -> list[bool]:
        """For every id, whether no text produces it.

        Special and added tokens, places kept free (`[unused7]`), ids the tokenizer does not name,
        and lone bytes that UTF-8 never holds.
        """
        if self.tokenizer is None:
            return [False] * self.d_vocab
        added = set(getattr(self.tokenizer, "all_special_ids", ()))
        added |= set(getattr(self.tokenizer, "added_tokens_decoder", ()))
        pieces = [self.tokenizer.convert_ids_to_tokens(index) for index in range(self.d_vocab)]
        return [
            index in added or piece is None or piece in NEVER_IN_UTF8 or bool(FREE.match(piece))
            for index, piece in enumerate(pieces)
        ]

    def single(self, word: str) -> int | None:
        """The id of a word that is exactly one token, None when it is several (or none)."""
        if self.tokenizer is None:
            raise ValueError(
                f"the word {word!r} cannot be looked up: the model has no tokenizer. Give token "
                "ids, or set model.tokenizer."
            )
        ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or self._is_unknown(ids[0], word):
            return None
        return int(ids[0])

    def _is_unknown(self, token_index: int, word: str) -> bool:
        """Whether an id only says that the tokenizer does not know the word."""
        unknown = getattr(self.tokenizer, "unk_token", None)
        return (
            unknown is not None
            and word.strip() != unknown
            and self.tokenizer.convert_ids_to_tokens(token_index) == unknown
        )

    def look_up(self, words: Iterable[str | int]) -> tuple[list[int], list[str]]:
        """Ids of the words that are one token, and the words that were dropped.

        Raises:
            IndexError: an id outside the vocabulary.
            ValueError: no word is left.
        """
        if isinstance(words, str):
            words = [words]
        kept: list[int] = []
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
                kept.append(index)
        if not kept:
            given = ", ".join(repr(word) for word in dropped) or "no word at all"
            raise ValueError(
                f"none of the words is a single token of this model: {given}. Try them with (or "
                "without) a leading space, or give token ids."
            )
        return kept, dropped


def visible(token: str) -> str:
    """A token for tables and pictures: a leading or trailing space is drawn as an open box."""
    left, inner, right = outer_spaces(token)
    return "\u2423" * left + inner + "\u2423" * right or "\u2205"


def outer_spaces(text: str) -> tuple[int, str, int]:
    """How many spaces a text begins with, what stands between, and how many it ends with."""
    inner = text.lstrip(" ")
    core = inner.rstrip(" ")
    return len(text) - len(inner), core, len(inner) - len(core)


def named(words: Sequence[str], most: int = 8) -> str:
    """A short list of words for a sentence: the first ones by name, the rest by number."""
    shown = ", ".join(repr(word) for word in words[:most])
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"


def escaped_controls(text: str) -> str:
    """A text on one line: control and invisible characters, lone surrogates too, as escapes."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if 0x7F < ord(character) < 0x100:  # `\\xa0` is a lone byte
        return f"\\u{ord(character):04x}"
    return character.encode("unicode_escape").decode("ascii")


def _raw_bytes(piece: str) -> str:
    """The bytes of a byte-level piece as hexadecimal escapes; other pieces as they are."""
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
    """The byte each character stands for in byte-level BPE.

    Printable Latin-1 bytes stand for themselves, the others for characters from U+0100 on.
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
