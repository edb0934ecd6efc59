"""Token strings are unambiguous, and words are looked up as single tokens."""

from functools import lru_cache
from typing import Any

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


SPACE = "\u2581"
SENTENCEPIECE = [
    "<unk>", "<s>", "</s>", "<0x0A>", "<0x20>", "<0x41>", "<0xC3>", SPACE, SPACE * 2, SPACE * 4,
    "A", f"{SPACE}A",
    f"{SPACE}{SPACE}A", f"{SPACE}in{SPACE}the", f"A{SPACE}", "\n", "\\", "\\n", "\\\n",
]  # fmt: skip


@lru_cache(maxsize=1)
def sentencepiece() -> Any:
    """A tokenizer as Llama 2 has it: byte fallback, a space before the text, one space stripped."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    ids = {piece: i for i, piece in enumerate(SENTENCEPIECE)}
    pairs = [(SPACE, SPACE), (SPACE * 2, SPACE * 2), (SPACE, "A"), ("A", SPACE),
             ("\\", "\n")]  # fmt: skip
    made = Tokenizer(models.BPE(ids, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def byte_level() -> Any:
    """A byte-level tokenizer with an added token of two spaces beside its own."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "\u0120", "\u0120\u0120", "\u0120dog", "dog", "\u00c3", "\u010a", "\\", "n",
              "\\n", "\\\u010a"]  # fmt: skip
    made = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken("  ", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def word_ends() -> Any:
    """A table as OpenAI GPT has it: the end of a word is a mark that its decoder drops."""
    return TableTokenizer(("<unk>", "<unk>"), ("dog", "dog"), ("dog</w>", "dog"), ("s</w>", "s"))


TOKENIZERS = {
    "sentencepiece": (sentencepiece, len(SENTENCEPIECE)),
    "byte level": (byte_level, 14),
    "word ends": (word_ends, 6),
    "same names": (lambda: TableTokenizer(*[(s, s) for s in ("<unk>", "a", "a", "a <1>")]), 4),
    "none": (lambda: None, 4),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_no_two_tokens_print_alike(kind: str):
    make, d_vocab = TOKENIZERS[kind]
    strings = TokenStrings(make(), d_vocab).strings(range(d_vocab))
    assert len(set(strings)) == d_vocab
    assert all(string and string.isprintable() for string in strings)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("shown", [str, visible])
def test_a_copied_string_is_the_same_token_or_ambiguous(kind: str, shown):
    make, d_vocab = TOKENIZERS[kind]
    tokens = TokenStrings(make(), d_vocab)
    same = 0
    for index, string in enumerate(tokens.strings(range(d_vocab))):
        try:
            assert tokens.look_up([shown(string)]) == ([index], [])
            same += 1
        except ValueError as error:
            assert "ambiguous" in str(error) and f"{index} ({string!r})" in str(error)
    assert same > 0.7 * d_vocab


def test_sentencepiece():
    tokens = TokenStrings(sentencepiece(), len(SENTENCEPIECE))
    assert tokens.strings(range(3, 16)) == [
        "<0x0A>", "<0x20>", "<0x41>", "<0xC3>", " ", "  ", "    ", "A", " A", "  A", " in the",
        "A ", "\\n",
    ]  # fmt: skip
    assert tokens.look_up([" A", "  ", "\u2423A", "\u2423\u2423", "<0x41>"]) == (
        [11, 8, 11, 8, 5], [],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"'A' is ambiguous: .* 10 \('A'\) and 11 \(' A'\)"):
        tokens.look_up(["A"])


def test_tokens_that_share_a_text_have_their_names():
    tokens = TokenStrings(byte_level(), 14)
    assert tokens.strings([1, 2, 3, 5, 6, 9, 10, 11, 12]) == [
        " ", "\u0120\u0120", " dog", "\\xc3", "\\n", "\\\\n", "\\\\\\n", "  ", "<unused 12>",
    ]  # fmt: skip
    assert tokens.texts()[2] == tokens.texts()[11] == "  "
    assert TokenStrings(word_ends(), 4).strings([1, 2, 3]) == ["dog", "dog</w>", "s"]


def test_strings_follow_a_tokenizer_that_grows():
    tokens = TokenStrings(byte_level(), 14)
    assert tokens.string(12) == "<unused 12>"
    tokens.tokenizer.add_tokens(["<tool>"])
    assert tokens.string(12) == "<tool>"


def test_a_word_with_a_lone_surrogate_is_dropped():
    assert TokenStrings(tokenizer(), 997).look_up(["w5", "\udcff"]) == ([5], ["\udcff"])
