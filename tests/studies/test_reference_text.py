"""Reference text: sentences of the standard library, and the vocabulary made from them, cached."""

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge
from tw_lens.studies import ReferenceTextError, reference_text


def test_prompts_are_whole_sentences_spread_over_the_topics():
    sentences = tw.reference_prompts(200)
    assert len(set(sentences)) == 200 and sentences == tw.reference_prompts(200)
    assert all(8 <= len(s.split()) <= 30 and s[0].isalpha() for s in sentences)
    everything = tw.reference_prompts(1500)
    places = [everything.index(s) for s in sentences if s in everything]
    assert places and max(places) > 1300 and min(places) < 200
    with pytest.raises(ValueError, match="n must be at most"):
        tw.reference_prompts(100_000)
    with pytest.raises(ValueError, match="n must be at least 1"):
        tw.reference_prompts(0)


def test_a_tokenizer_without_english_is_rejected():
    with pytest.raises(ReferenceTextError, match="tokens for 0 of 10 common English words"):
        tw.reference_vocabulary(golden_bridge())


def test_the_vocabulary_is_measured_and_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("TW_LENS_CACHE", str(tmp_path / "new" / "folder"))
    monkeypatch.setattr(reference_text, "_require_known_words", lambda weights: None)
    monkeypatch.setattr(
        reference_text,
        "reference_prompts",
        lambda n: [f"w{5 + i % 40} w{6 + i % 30} w{7 + i % 50} w8 w9 w10" for i in range(n)],
    )
    model = golden_bridge()
    made = tw.reference_vocabulary(model, layers=[1])
    assert made.faithfulness is not None and made.layers == (1,)
    (file,) = (tmp_path / "new" / "folder").iterdir()
    monkeypatch.setattr(reference_text, "layer_vocabulary", None)  # a second run would fail
    again = tw.reference_vocabulary(model, layers=[1])
    assert torch.equal(made.points[0], again.points[0])
    assert torch.equal(made.faithfulness.value, again.faithfulness.value)
    with pytest.raises(TypeError):  # other layers are another vocabulary
        tw.reference_vocabulary(model, layers=[2])
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(TypeError):  # a cut file is computed again
        tw.reference_vocabulary(model, layers=[1])


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TW_LENS_CACHE", str(tmp_path / "file" / "folder"))
    monkeypatch.setattr(reference_text, "_require_known_words", lambda weights: None)
    monkeypatch.setattr(
        reference_text,
        "reference_prompts",
        lambda n: [f"w{5 + i % 40} w{6 + i % 30} w{7 + i % 50} w8 w9 w10" for i in range(60)],
    )
    with pytest.warns(UserWarning, match="could not be cached in .* set TW_LENS_CACHE"):
        made = tw.reference_vocabulary(golden_bridge(), layers=[1])
    assert made.faithfulness is not None
