"""Token ids to printable strings, and words to token ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

PLACEHOLDER = re.compile(r"[\[<]\W*(unused|reserved|extra_id)", re.IGNORECASE)
BYTE_FALLBACK = re.compile(r"<0x[0-9A-Fa-f]{2}>")
ESCAPES = "abfnrtvxuU\\"
WORD_START = "\u2581"
OPEN_BOX = "\u2423"


@dataclass(frozen=True, eq=False)
class TokenStrings:
    """A tokenizer as a dictionary: ids to unambiguous strings, words to single ids.

    No two ids have the same string. A token's string is its text, with control characters and
    lone bytes escaped; the bytes of a byte-fallback vocabulary keep their names (`<0x41>`), and so
    do tokens that share a text (byte-level `\u0120\u0120` beside an added token of two spaces).

    `tokenizer` is the model's own; None for a model without one, whose tokens print as `<7>`.
    """

    tokenizer: Any
    d_vocab: int

    def string(self, token_index: int) -> str:
        """Return the text of one token, with its spaces; control characters and bytes escaped."""
        return self.strings([token_index])[0]

    def strings(self, token_indices: Iterable[int]) -> list[str]:
        """Return the strings of many tokens."""
        strings = self._table.strings
        return [strings[index] for index in token_indices]

    def texts(self) -> tuple[str, ...]:
        """Return the text of every id, escaped; several tokens may have the same."""
        return self._table.texts

    @property
    def _table(self) -> _Table:
        size = len(self.tokenizer) if hasattr(self.tokenizer, "__len__") else None
        return _table(_Identity(self.tokenizer), size, self.d_vocab)

    def without_text(self) -> list[bool]:
        """Return for every id whether no text produces it.

        True for special and added tokens, placeholders (`[unused7]`), ids without a token in the
        tokenizer, and lone bytes that do not occur in UTF-8.
        """
        if self.tokenizer is None:
            return [False] * self.d_vocab
        added = set(getattr(self.tokenizer, "all_special_ids", ()))
        added |= set(getattr(self.tokenizer, "added_tokens_decoder", ()))
        pieces = [_piece(self.tokenizer, index) for index in range(self.d_vocab)]
        return [
            index in added
            or piece is None
            or piece in NEVER_IN_UTF8
            or bool(PLACEHOLDER.match(piece))
            for index, piece in enumerate(pieces)
        ]

    def single(self, word: str) -> int | None:
        """Return the id of a text that is exactly one token; None if it is several (or none)."""
        if self.tokenizer is None:
            raise ValueError(
                f"the word {word!r} cannot be looked up: the model has no tokenizer; give token "
                "ids, or set model.tokenizer."
            )
        text = word.encode("utf-8", "replace").decode("utf-8")  # no tokenizer takes lone surrogates
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
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

    def printed(self, string: str) -> int | None:
        """Return the id that prints as a string; None where no token does."""
        return self._table.id_of.get(string)

    def look_up(self, words: Iterable[str | int]) -> tuple[list[int], list[str]]:
        """Return the ids of the words that are one token, and the words that were dropped.

        A word is a text, or a token's string as tables and figures print it.

        Raises:
            IndexError: an id outside the vocabulary.
            ValueError: no word is a single token; a word is one token as a text and another as a
                printed string.
        """
        if isinstance(words, str):
            words = [words]
        ids: list[int] = []
        dropped: list[str] = []
        for word in words:
            index = self._of_word(word) if isinstance(word, str) else int(word)
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
            raise ValueError(self._no_word_is_known(names))
        return ids, dropped

    def _no_word_is_known(self, words: str) -> str:
        """Return the sentence for words none of which is a single token."""
        return (
            f"none of the words is a single token of this model, got {words}; try them with "
            "(or without) a leading space, or give token ids."
        )

    def _of_word(self, word: str) -> int | None:
        """Return the id of a word, as a text or as printed; None where it is no single token."""
        left, inner, right = outer_spaces(word, OPEN_BOX)
        spelled = (word, " " * left + inner + " " * right)
        ids = [index for index in map(self.printed, dict.fromkeys(spelled)) if index is not None]
        if self.tokenizer is not None or not ids:
            index = self.single(word)
            ids += [index] if index is not None and index not in ids else []
        if len(ids) > 1:
            names = " and ".join(f"{index} ({self.string(index)!r})" for index in ids)
            raise ValueError(
                f"the word {word!r} is ambiguous: as a text or as tables print tokens, it is "
                f"{names}; give the token id."
            )
        return ids[0] if ids else None


class _Table(NamedTuple):
    """The text and the string of every id, and the id of every string."""

    texts: tuple[str, ...]
    strings: tuple[str, ...]
    id_of: dict[str, int]


class _Identity(NamedTuple):
    """A tokenizer as a key: equal to itself alone."""

    tokenizer: Any

    def __hash__(self) -> int:
        return id(self.tokenizer)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.tokenizer is self.tokenizer


@lru_cache(maxsize=4)
def _table(key: _Identity, size: int | None, d_vocab: int) -> _Table:
    """Return the strings of a tokenizer of `size` tokens, each unlike all others.

    Tokens that share a text print as their pieces; where these are not unique either, with their
    id.
    """
    pieces = [_piece(key.tokenizer, index) for index in range(d_vocab)]
    texts = [_text(key.tokenizer, index, piece) for index, piece in enumerate(pieces)]
    named = [escape(piece or "") for piece in pieces]
    numbered = [f"{name} <{index}>" for index, name in enumerate(named)]
    strings = texts
    for others in (named, numbered, numbered):  # a number may collide with another name
        count = Counter(strings)
        strings = [o if count[s] > 1 else s for s, o in zip(strings, others, strict=True)]
    id_of = {string: index for index, string in enumerate(strings)}
    return _Table(tuple(texts), tuple(strings), id_of)


def _piece(tokenizer: Any, token_index: int) -> str | None:
    """Return a token's name in the tokenizer's vocabulary; None beyond it."""
    if tokenizer is None:
        return f"<{token_index}>"
    try:
        piece = tokenizer.convert_ids_to_tokens(token_index)
    except (IndexError, KeyError):  # tokenizers written in Python
        return None
    return piece.decode("utf-8", "surrogateescape") if isinstance(piece, bytes) else piece


def _text(tokenizer: Any, token_index: int, piece: str | None) -> str:
    """Return a token's text, escaped; the piece of a byte."""
    if piece is None:
        return f"<unused {token_index}>"
    if tokenizer is None or BYTE_FALLBACK.fullmatch(piece):
        return piece
    text = tokenizer.decode([token_index], clean_up_tokenization_spaces=False)
    if piece.startswith(WORD_START) and not text.startswith(WORD_START):
        spaces = outer_spaces(piece, WORD_START)[0]  # SentencePiece drops one of them, or all
        text = " " * spaces + text.lstrip(" ")
    elif text == "" or "\ufffd" in text:
        text = _raw_bytes(piece)
    return escape(text)


def visible(token: str) -> str:
    """Return a token for tables and figures, with leading and trailing spaces as open boxes."""
    left, inner, right = outer_spaces(token)
    return OPEN_BOX * left + inner + OPEN_BOX * right or "\u2205"


def outer_spaces(text: str, space: str = " ") -> tuple[int, str, int]:
    """Return the number of leading spaces, the text between, and the number of trailing spaces."""
    rest = text.lstrip(space)
    inner = rest.rstrip(space)
    return len(text) - len(rest), inner, len(rest) - len(inner)


def named(words: Sequence[str], most: int = 8) -> str:
    """Return a list of words for a sentence: the first ones quoted, the rest as a count."""
    text = ", ".join(repr(word) for word in words[:most])
    return text if len(words) <= most else f"{text} and {len(words) - most} more"


def escape(text: str) -> str:
    """Return a token's text on one line, so that different texts stay different.

    Control characters, invisible ones and lone bytes are escaped; a backslash that looks like the
    start of an escape is doubled.
    """
    if text.isprintable() and "\\" not in text:
        return text
    doubled = (
        "\\" if c == "\\" and (after in ESCAPES or not after.isprintable()) else ""
        for c, after in zip(text, text[1:] + " ", strict=True)
    )
    return "".join(more + escaped_controls(c) for more, c in zip(doubled, text, strict=True))


def escaped_controls(text: str) -> str:
    """Return a text on one line: control characters, invisible ones and surrogates escaped."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a lone byte, as `surrogateescape` has it
        return f"\\x{code - 0xDC00:02x}"
    if 0x7F < code < 0x100:
        return f"\\u{code:04x}"
    return character.encode("unicode_escape").decode("ascii")


def _raw_bytes(piece: str) -> str:
    """Return the text of a byte-level piece, lone bytes as surrogates; other pieces unchanged."""
    table = _byte_of_character()
    if not all(character in table for character in piece):
        return piece
    raw = bytes(table[character] for character in piece)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:  # every byte, not only those that are no text
        return raw.decode("ascii", "surrogateescape")


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
