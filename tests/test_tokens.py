"""Token strings are unambiguous, and words are looked up as single tokens."""

import pytest

from tests.models import tokenizer
from tw_lens.tokens import TokenStrings, named, visible


class TableTokenizer:
    """A byte-level (or sentencepiece) tokenizer from a table: piece and text of each id."""

    unk_token = "<unk>"

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self.pairs = pairs

    def convert_ids_to_tokens(self, index: int) -> str | None:
        return self.pairs[index][0] if index < len(self.pairs) else None

    def decode(self, ids: list[int], clean_up_tokenization_spaces: bool) -> str:
        assert clean_up_tokenization_spaces is False
        return self.pairs[ids[0]][1]

    def __call__(self, word: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert add_special_tokens is False
        known = [i for i, (_, text) in enumerate(self.pairs) if text == word]
        return {"input_ids": known[:1] or [0]}


PIECES = [
    ("<unk>", "<unk>", "<unk>"),
    ("\u0120dog", " dog", " dog"),
    ("dog", "dog", "dog"),
    ("\u010a", "\n", "\\n"),
    ("\u0109\u0120", "\t ", "\\t "),
    ("\u00e2\u0124", "\ufffd", "\\xe2\\x82"),
    ("\u2581house", "house", " house"),
    ("<s>", "", "<s>"),
    ("\u00e2\u0122\u012d", "\u200b", "\\u200b"),
    ("x", "\u202e", "\\u202e"),
    ("nul", "\x00", "\\x00"),
    ("\u00c2\u0142", "\u00a0", "\\u00a0"),
    ("\u0142", "\ufffd", "\\xa0"),
    ("\\n", "\\n", "\\\\n"),
    ("\\", "\\", "\\"),
    ("caf\u00c3\u00a9", "caf\u00e9", "caf\u00e9"),
]


@pytest.mark.parametrize("index", range(len(PIECES)))
def test_strings(index: int):
    tokens = TokenStrings(TableTokenizer(*[(piece, text) for piece, text, _ in PIECES]), 20)
    assert tokens.string(index) == PIECES[index][2]
    assert tokens.string(index).isprintable()


def test_ids_beyond_the_tokenizer():
    assert TokenStrings(TableTokenizer(("a", "a")), 9).string(7) == "<unused 7>"


def test_without_a_tokenizer():
    tokens = TokenStrings(None, 9)
    assert tokens.strings([1, 8]) == ["<1>", "<8>"]
    with pytest.raises(ValueError, match="'dog' cannot be looked up: the model has no tokenizer"):
        tokens.look_up(["dog"])
    assert tokens.look_up([3]) == ([3], [])


def test_look_up():
    tokens = TokenStrings(TableTokenizer(*[(piece, text) for piece, text, _ in PIECES]), 16)
    assert tokens.look_up([" dog", "dog", 5, "cat"]) == ([1, 2, 5], ["cat"])
    assert tokens.look_up("dog") == ([2], [])
    assert tokens.single("<unk>") == 0
    with pytest.raises(IndexError, match="token id 16 does not exist"):
        tokens.look_up([16])
    with pytest.raises(ValueError, match=r"none of the words is a single token.*'cat'"):
        tokens.look_up(["cat"])


def test_a_real_tokenizer():
    tokens = TokenStrings(tokenizer(), 997)
    assert tokens.strings([0, 5, 996]) == ["w0", "w5", "w996"]
    assert tokens.single("w5") == 5
    assert tokens.single("w5 w6") is None
    assert tokens.single("unheard") is None


def test_visible_and_named():
    assert visible(" dog") == "\u2423dog"
    assert visible("a b ") == "a b\u2423"
    assert visible("  ") == "\u2423\u2423"
    assert visible("") == "\u2205"
    assert named(["a", "b"]) == "'a', 'b'"
    assert named([str(i) for i in range(10)], most=2) == "'0', '1' and 8 more"
