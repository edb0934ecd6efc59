"""Every public call on every stack: it answers, or the package refuses it by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import tw_lens as tw
from tests.encoder_decoders import NAMES, SOURCE, TARGET, shared, shared_stack
from tests.models import tokenizer
from tests.test_devices import STUDIES, TEXTS, calls_on
from tests.zoo import tiny
from tw_lens.cli import app
from tw_lens.results import Result

TINY = Path(__file__).parents[1] / "data" / "tiny-gpt2"
TOY_WORDS = {"common_nouns", "token_filter"}  # the toy tokenizer has no English words
NO_POSITIONS = {"head_position_scores", "head_probe, by points", "position_points", "span_shares"}
REFUSED = {
    ("T5", "encoder"): {*NO_POSITIONS, "bias_directions"},
    ("T5", "decoder"): {*NO_POSITIONS, "bias_directions"},
    ("BART", "encoder"): {"head_score_by_distance", "source_attribution"},
    ("BART", "decoder"): {"head_score_by_distance", "source_attribution"},
}
ANSWERED_BY_CROSS = {
    "attention_pattern", "direction_association", "fit_projection", "head_atlas", "head_probe",
    "head_spectrum", "head_spectrum, QK", "token_norms", "trajectory",
}  # fmt: skip


def refused(name: str, stack: str) -> dict[str, str]:
    """Return the sentences of the calls that do not answer, by name; results are drawn too."""
    model, weights, states = shared_stack(name, stack)
    vocabulary = None
    if stack != "cross":
        vocabulary = tw.layer_vocabulary(model, layers=[1], prompts=TEXTS)
    sentences = {}
    for call_name, call in calls_on(model, states, vocabulary).items():
        try:
            result = call(weights)
        except (ValueError, tw.UnsupportedModelError) as error:
            sentences[call_name] = str(error)
            continue
        if isinstance(result, Result):
            assert len(result.to_dataframe()) and weights.model_name[:8] in result.headline()
            if call_name not in ("fit_projection", "token_norms"):
                result.plot()
    return sentences


@pytest.mark.parametrize(("name", "stack"), REFUSED)
def test_calls_on_an_encoder_and_a_decoder(name: str, stack: str):
    assert set(refused(name, stack)) == REFUSED[name, stack] | TOY_WORDS


@pytest.mark.parametrize("name", ["T5", "BART"])
def test_calls_on_cross_attention(name: str):
    sentences = refused(name, "cross")
    every = set(calls_on(None, shared_stack(name, "cross")[2], None))
    assert every - set(sentences) == ANSWERED_BY_CROSS
    two = [one for one in sentences.values() if "cross-attention reads two streams" in one]
    assert len(two) > 8 and all("head_spectrum" in one for one in two)


@pytest.mark.parametrize("study", sorted(set(STUDIES) - {"head_kinds"}))
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_studies_run_a_stack(stack: str, study: str):
    model, _, _ = shared_stack("mBART", stack)
    if study == "layer_vocabulary":
        vocabulary = tw.layer_vocabulary(model, prompts=TEXTS)
        found = tw.faithfulness(model, [[4, 5, 6, 7, 8, 3]] * 2, vocabulary=[vocabulary])
        assert "faithfulness" in found.headline() or len(found.to_dataframe())
        return
    assert model.cfg.model_name in STUDIES[study](model).headline()


def test_a_vocabulary_of_one_stack_is_not_read_with_another():
    vocabulary = tw.layer_vocabulary(shared_stack("BART", "encoder")[0], source="embedding")
    with pytest.raises(ValueError, match="whose parameters are not"):
        tw.head_spectrum(shared_stack("BART", "decoder")[1], layer=1, vocabulary=vocabulary)


def test_controls_that_copy_a_model():
    assert tw.permute_weights(shared_stack("BART", "decoder")[0]).whole_model is not shared("BART")
    with pytest.raises(tw.UnsupportedModelError, match="still calls the hooks of the model"):
        tw.permute_weights(shared_stack("T5", "decoder")[0])


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_the_page_of_a_stack(stack: str, tmp_path):
    model, _, _ = shared_stack("BART", stack)
    prompt = SOURCE[:4] if stack == "encoder" else TARGET[:4]
    page = tw.report(model, tmp_path / "p.html", prompt=prompt, layers=[1], vocabulary="embedding")
    text = page.read_text()
    assert f"tiny-BartForConditionalGeneration ({stack})" in text
    assert ("EL1H0" if stack == "encoder" else "DL1H0") in text
    assert ("queries of cross-attention" in text) == (stack == "decoder")


def test_cross_attention_has_no_page_of_its_own(tmp_path):
    model, _, _ = shared_stack("BART", "cross")
    with pytest.raises(tw.UnsupportedModelError, match="no residual stream of its own"):
        tw.report(model, tmp_path / "p.html", prompt=TARGET)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bart")
    tiny(NAMES["BART"]).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "code", "printed"),
    [
        (["check", "--prompt", "w5 w6", "--target", "w8 w9"], 0, "cross_attn_scores"),
        (["check", "--prompt", "w5 w6"], 2, "choose --stack encoder"),
        (["check", "--stack", "encoder", "--prompt", "w5 w6"], 0, "(encoder): passed"),
        (["trajectory", "--stack", "decoder", "--source", "w5", "--prompt", "w8"], 0, "(decoder)"),
        (["trajectory", "--stack", "decoder", "--prompt", "w8"], 2, "reads a source; give it"),
        (["spectrum", "--stack", "cross", "--layer", "1", "-n", "1"], 0, "DL1X3"),
        (["spectrum", "--stack", "cross", "--head", "DL1X3", "-n", "1"], 0, "DL1X3"),
        (["spectrum", "--stack", "encoder", "--head", "DL1H3"], 2, "of another stack than --stack"),
        (["check", "--stack", "encoder", "--prompt", "w5", "--target", "w8"], 2, "leave --stack"),
        (["spectrum", "--stack", "both", "--layer", "1"], 2, "unknown name 'both'"),
    ],
)
def test_the_command_line(folder: str, arguments: list[str], code: int, printed: str):
    command, *others = arguments
    done = CliRunner().invoke(app, [command, folder, *others])
    assert done.exit_code == code, done.output
    assert printed in done.output


def test_the_command_line_of_a_model_with_one_stack():
    done = CliRunner().invoke(app, ["norms", str(TINY), "--stack", "encoder"])
    assert done.exit_code == 2 and "are for encoder-decoders" in done.output
