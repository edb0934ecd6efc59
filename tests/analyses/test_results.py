"""All result classes: headline, table, figure and HTML."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from functools import lru_cache
from tempfile import TemporaryDirectory

import pandas as pd
import pytest

import tw_lens as tw
from tests.models import shared_bridge
from tests.planted import with_router
from tw_lens.analyses.common_nouns import NOUNS
from tw_lens.canonical import Weights
from tw_lens.results import Result
from tw_lens.studies import DirectionExamples, NeuronExamples
from tw_lens.tokens import TokenStrings

BAD = '<img src=x onerror="alert(1)">'


class HostileTokenizer:
    """A tokenizer whose token texts are HTML injections; the nouns are single tokens."""

    def __call__(self, word: str, **_: object) -> dict[str, list[int]]:
        known = word.strip() in NOUNS
        return {"input_ids": [NOUNS.index(word.strip())] if known else [1, 2]}

    def convert_ids_to_tokens(self, index: int) -> str:
        return f"piece{index}"

    def decode(self, ids: list[int], **_: object) -> str:
        return f"{BAD}</script>&\n{ids[0]}"


HEAD = ["layer", "head", "component"]
NEURON = ["layer", "neuron", "component"]
WORDS = ["rank", "token_index", "token_string", "score"]
NULL = ["coherence", "exceeds_null", "faithfulness"]
COLUMNS = {
    "Certificate": ["layer", "quantity", "max_abs_error", "rel_error"],
    "EmbeddingDistances": ["setting", "l2_mean", "l2_std", "cosine_mean", "cosine_std"],
    "TokenNorms": WORDS,
    "HeadProbe": [*HEAD, "word", "word_index", *WORDS, "norm", *NULL],
    "HeadSpectrum": [*HEAD, "direction", "side", "singular_value", *WORDS, *NULL],
    "BiasDirections": [*HEAD, "side", "sign", *WORDS, *NULL],
    "Trajectory": [
        "layer", "label", "position", "token_index", "token_string", "norm", "step_angle",
        "arc_length", "turning_angle", "chord", "tortuosity", "radial_share", "tangential_share",
        "angle_to_embedding", "angle_to_next_readout", "angle_to_last", "angle_to_next",
        "reads_as", "reads_as_index", "logit", "final_rank",
    ],
    "TrajectoryAttribution": [
        *HEAD, "position", "token_index", "token_string", "share", "length",
    ],
    "AttentionPattern": [*HEAD, "query", "key", "query_token", "key_token", "attention"],
    "Projection": [
        "kind", "prompt", "layer", "position", "token_string", "axis_0", "axis_1", "axis_2",
    ],
    "HeadEllipsoid": [
        *HEAD, "word", "word_index", "share",
        "left_0", "left_1", "left_2", "right_0", "right_1", "right_2",
    ],
    "CommonNouns": ["token_index", "token_string"],
    "HeadAtlas": [
        "layer", "head", "component", "circuit", "direction", "singular_value", "share",
        "left_tokens", "right_tokens", "left_coherence", "left_exceeds_null", "right_coherence",
        "right_exceeds_null", "faithfulness",
    ],
    "Faithfulness": [
        *HEAD, "circuit", "source", "correlation", "low", "high", "floor", "difference",
        "difference_low", "difference_high", "ceiling", "explained_variance", "write_correlation",
        "write_explained_variance", "n",
    ],
    "DirectionCoherence": [
        "layer", "head", "component", "circuit", "direction", "side", "measure", "coherence",
        "null", "null_mean", "p", "q_head", "q_layer", "q_model",
    ],
    "DirectionAssociation": [
        "layer", "head", "component", "circuit", "direction", "left_tokens", "right_tokens",
        "association", "null_association", "p_same_head", "p_other_heads", "p_head", "q_head",
    ],
    "DirectionDegeneracy": [
        *HEAD, "direction", "singular_value", "spectral_gap", "perturbation_norm", "subspace",
        "overlap_rotated_left", "overlap_rotated_right", "overlap_rounded_left",
        "overlap_rounded_right", "sign_margin",
    ],
    "HeadProbeByDistance": [*HEAD, "word", "word_index", "distance", *WORDS, *NULL],
    "TokenFilter": ["condition", "tokens", "examples"],
    "HeadScoreByDistance": [*HEAD, "distance", "mean", "std"],
    "HeadPositionScores": [*HEAD, "query", "key", "score"],
    "HeadKinds": [*HEAD, "kind", "from_weights", "p", "claimed", "from_use", "in_use"],
    "ScoreAttribution": [*HEAD, "side", "part", "contribution", "share"],
    "ScoreDirections": [
        *HEAD, "directions", "singular_value", "score", "share", "explained", "rotated_score",
        "rotated_explained", "rotated_95",
    ],
    "RouterTable": [
        "layer", "expert", "component", "norm", "rank", "token_index", "token_string", "score",
        "coherence", "exceeds_null",
    ],
    "NeuronTable": [
        *NEURON, "norm_in", "norm_out", "cosine_in_out", "std", "skewness", "kurtosis", "in_tokens",
        "in_coherence", "in_exceeds_null", "out_tokens", "out_coherence", "out_exceeds_null",
    ],
    "NeuronProbe": [
        *NEURON, "word", "word_index", "rank", "activation", "written", "share", "tokens",
        "coherence", "exceeds_null",
    ],
    "NeuronExamples": [
        *NEURON, "rank", "prompt", "position", "token_index", "token_string", "activation",
        "context_before", "context_after", "r", "r_embedding",
    ],
    "NeuronAblation": [
        "layer", "neurons", "written", "measure", "value", "low", "high", "random", "random_low",
        "random_high", "difference", "difference_low", "difference_high", "vs_control",
    ],
    "StepNeurons": [
        "layer", "position", "token_index", "token_string", "component", "neuron", "share",
        "activation",
    ],
    "SourceAttribution": [
        *HEAD, "source", "token_index", "token_string", "attention", "share_of_output",
        "share_of_step", "length",
    ],
    "SpanShares": [*HEAD, "circuit", "side", "points", "share", "expected", "rank"],
    "TrajectoryStatistics": [
        "layer", "label", "measure", "source", "mean", "std", "low", "high", "count", "difference",
        "difference_low", "difference_high", "vs_control",
    ],
    "DirectionExamples": [
        *HEAD, "circuit", "direction", "side", "rank", "prompt", "position", "token_index",
        "token_string", "projection", "cosine", "token_rank", "context_before", "context_after",
        "counterpart_position", "counterpart_token", "counterpart_projection", "contribution",
        "attention",
    ],
    "Sweep": [
        "model", "step", "fingerprint", "layer", "qk_effective_rank", "qk_leading_share",
        "qk_strongest_head", "ov_effective_rank", "ov_leading_share", "ov_strongest_head",
        "qk_correlation", "qk_floor", "ov_correlation", "ov_floor", "previous_token_heads",
        "previous_token_score", "same_token_heads", "same_token_score", "induction_heads",
        "induction_score", "attention_sink_heads", "attention_sink_score", "copying_heads",
        "copying_score", "suppression_heads", "suppression_score", "step_angle", "step_length",
        "state_norm",
    ],
    "PaperTables": ["file", "question", "section", "conventions", "rows"],
    "TrajectoryAlignment": ["layer", "label", "target", "place", "source", "angle", "low", "high"],
    "DirectionAblation": [
        *HEAD, "circuit", "action", "directions", "energy", "share", "measure", "value",
        "low", "high", "random", "random_low", "random_high", "difference", "difference_low",
        "difference_high", "vs_control", "left_tokens", "right_tokens",
    ],
}  # fmt: skip
WITHOUT_WORDS = {
    "Certificate",
    "TrajectoryAlignment",
    "DirectionCoherence",
    "DirectionDegeneracy",
    "DirectionAblation",
    "EmbeddingDistances",
    "Faithfulness",
    "HeadKinds",
    "HeadPositionScores",
    "HeadScoreByDistance",
    "NeuronAblation",
    "PaperTables",
    "ScoreAttribution",
    "ScoreDirections",
    "SpanShares",
    "Sweep",
    "TrajectoryStatistics",
}


@lru_cache(maxsize=1)
def results() -> dict[str, Result]:
    """One of each class, all tokens hostile."""
    model = shared_bridge("gpt2")
    weights = tw.read_weights(model)
    tokens = TokenStrings(HostileTokenizer(), weights.d_vocab)
    weights = replace(weights, tokens=tokens)
    states = tw.read_states(model, [5, 6, 7])
    states = replace(states, token_strings=tuple(tokens.strings([5, 6, 7])))
    made = [
        tw.check(model, [5, 6, 7]),
        tw.embedding_distances(weights),
        tw.token_norms(weights),
        tw.head_probe(weights, layer=1, words=[5, 6], circuit="OV"),
        tw.head_spectrum(weights, layer=1, n=2),
        tw.bias_directions(weights, layer=1),
        tw.trajectory(weights, states),
        tw.trajectory_attribution(weights, states),
        tw.attention_pattern(weights, states, layer=1),
        tw.fit_projection(weights, states, n_words=20),
        tw.head_ellipsoid(weights, layer=1, head=2, words=[5, 6]),
        tw.common_nouns(weights),
        tw.head_atlas(weights, n=2),
        tw.direction_coherence(weights, n=2, n_null=99),
        tw.direction_association(weights, n=2),
        tw.direction_degeneracy(weights, layer=1, n=3),
        tw.token_filter(weights, whole_words=False),
        tw.head_probe_by_distance(weights, layer=1, words=[5, 6], distances=[0]),
        tw.head_score_by_distance(_rotating(tokens), layer=1, words=[5, 6]),
        tw.head_kinds(weights, model),
        tw.score_attribution(weights, states, layer=1, head=0),
        tw.score_directions(weights, states, layer=1, head=0, rotations=2),
        tw.neuron_table(weights, layer=1),
        tw.router_table(with_router(weights), layer=1),
        tw.neuron_probe(weights, layer=1, words=[5, 6]),
        _neurons_with_tokens(
            tw.neuron_examples(model, [[5, 6, 7], [9, 8]], layer=1, neurons=[3, 4]), tokens
        ),
        tw.trajectory_attribution(weights, states, neurons=3).neurons,
        tw.neuron_ablation(model, [[5, 6, 7], [9, 8]], layer=1, neurons=[3, 4]),
        tw.source_attribution(weights, states, layer=1, head=0, query=2),
        tw.head_position_scores(weights, layer=1, n=5),
        tw.span_shares(weights, tw.position_points(weights), layers=[1]),
        tw.trajectory_statistics(model, [[5, 6, 7], [8, 9]], controls=["random steps"]),
        tw.trajectory_alignment(model, [[5, 6, 7, 8], [8, 9, 10, 11]], controls=[]),
        _with_tokens(
            tw.direction_examples(model, [[*range(5, 30)]], layer=1, head=3, context=1), tokens
        ),
        tw.direction_ablation(model, [[5, 6, 7]], layer=1, head=0, directions=[0, 1]),
        tw.faithfulness(
            model,
            [[*range(5, 15)], [*range(7, 15)]],
            vocabulary=tw.layer_vocabulary(model, source="embedding"),
        ),
        tw.sweep([model], prompts=[[*range(5, 15)], [*range(7, 15)]]),
        _paper_tables(model),
    ]
    return {type(result).__name__: result for result in made}


def _with_tokens(result: DirectionExamples, tokens: TokenStrings) -> DirectionExamples:
    """Return the examples with the strings of other tokens (a bridge needs its own tokenizer)."""
    hostile = (
        example._replace(
            token_string=tokens.string(example.token_index), counterpart_token=tokens.string(5)
        )
        for example in result.examples
    )
    return replace(result, examples=tuple(hostile))


def _neurons_with_tokens(result: NeuronExamples, tokens: TokenStrings) -> NeuronExamples:
    """Return the examples with the strings of other tokens (a bridge needs its own tokenizer)."""
    return replace(
        result,
        examples=tuple(
            tuple(one._replace(token_string=tokens.string(one.token_index)) for one in examples)
            for examples in result.examples
        ),
    )


def _paper_tables(model: object) -> Result:
    with TemporaryDirectory() as folder:
        return tw.paper_tables(
            model, f"{folder}/paper", prompt=[5, 6], layers=[1], words=[5], n=1, k=2,
            methods=["pca"],
        )  # fmt: skip


def _rotating(tokens: TokenStrings) -> Weights:
    """Return weights with rotary positions, with the model name of the others."""
    weights = tw.read_weights(shared_bridge("llama"))
    return replace(weights, tokens=tokens, model_name="tiny-gpt2")


def every_subclass(cls: type) -> set[str]:
    """Return the names of the package's own subclasses."""
    names = set()
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("tw_lens"):
            names |= {sub.__name__} | every_subclass(sub)
    return names


def test_no_result_class_is_left_out():
    assert every_subclass(Result) == set(COLUMNS) == set(results())


@pytest.mark.parametrize("name", COLUMNS)
def test_repr_is_one_line_with_the_headline(name: str):
    result = results()[name]
    text = repr(result)
    assert text.startswith(f"{name}(") and result.headline() in text
    assert "\n" not in text and "\r" not in text and len(text) < 500
    assert "tiny-gpt2" in text
    assert all(caveat.name in text for caveat in result.caveats)


@pytest.mark.parametrize("name", COLUMNS)
def test_table_has_the_contracts_columns(name: str):
    table = results()[name].to_dataframe()
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == COLUMNS[name]
    assert len(table) > 1
    assert list(table.index) == list(range(len(table)))


@pytest.mark.parametrize("name", COLUMNS)
def test_html_is_escaped(name: str):
    page = results()[name]._repr_html_()
    assert "<img" not in page and "</script" not in page
    assert page.count("<table") == 1
    if name not in WITHOUT_WORDS:
        assert "&lt;img src=x" in page  # the injection appears as text


@pytest.mark.parametrize("name", COLUMNS)
def test_frozen(name: str):
    result = results()[name]
    for field in fields(result):
        with pytest.raises(FrozenInstanceError):
            setattr(result, field.name, None)
    with pytest.raises(FrozenInstanceError):
        result.something_new = 1


@pytest.mark.parametrize("name", COLUMNS)
def test_copies_and_pickles_are_the_same(name: str):
    result = results()[name]
    for copied in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert repr(copied) == repr(result) and copied.caveats == result.caveats
        assert copied.to_dataframe().equals(result.to_dataframe())
        assert copied.plot().to_json() == result.plot().to_json()


@pytest.mark.parametrize("name", COLUMNS)
def test_tensors_are_detached_and_on_the_cpu(name: str):
    import torch

    values = vars(results()[name]).values()
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    assert all(t.device.type == "cpu" and not t.requires_grad for t in tensors)


def test_nouns_in_both_spellings():
    weights = replace(
        tw.read_weights(shared_bridge("gpt2")), tokens=TokenStrings(HostileTokenizer(), 997)
    )
    for leading_space in (True, False):
        nouns = tw.common_nouns(weights, leading_space=leading_space)
        assert list(nouns) == list(range(len(NOUNS))) and len(nouns) == 100
        assert nouns.dropped == () and nouns.leading_space is leading_space
    probe = tw.head_probe(weights, layer=0, words=nouns, head=0, k=1)
    assert probe.word_index == tuple(nouns)
