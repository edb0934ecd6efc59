"""The golden file, value by value, from the public calls (published convention)."""

from collections.abc import Callable

import pandas as pd
import pytest

import tw_lens as tw
from tests.models import golden_expected
from tw_lens.canonical import Weights

SCHEMES = {
    "norm": (False, False),
    "scaled_norm": (True, False),
    "bias": (False, True),
    "scaled_and_bias": (True, True),
}
SETTINGS = {
    "original": "Original",
    "centered": "Centered",
    "scaled": "Scaled",
    "centered_scaled": "Centered & Scaled",
}
COLUMNS = {
    "l2_mean": "mean_l2_distance",
    "l2_std": "l2_std_dev",
    "cosine_mean": "mean_cosine_distance",
    "cosine_std": "cosine_std_dev",
}
Cells = dict[tuple, pd.DataFrame]


def assert_ids(cell: pd.DataFrame, ids: list[int]) -> None:
    """Assert the same ids in the same order; neighbours within 1e-5 relative may swap."""
    ours, score = cell.token_index.tolist(), dict(zip(cell.token_index, cell.score, strict=True))
    assert cell["rank"].tolist() == list(range(len(ids)))
    assert sorted(ours) == sorted(ids)
    for mine, theirs in zip(ours, ids, strict=True):
        assert mine == theirs or abs(score[mine] / score[theirs] - 1) < 1e-5


def cells(table: pd.DataFrame, *columns: str) -> Cells:
    return dict(list(table.groupby(list(columns), sort=False)))


def check_embedding_distances(weights: Weights) -> None:
    table = tw.embedding_distances(weights).to_dataframe().set_index("setting")
    expected = golden_expected()["embedding_distances"]
    assert set(expected) == set(SETTINGS.values())
    for setting, name in SETTINGS.items():
        for column, key in COLUMNS.items():
            assert table.loc[setting, column] == pytest.approx(expected[name][key], rel=1e-4)


def check_token_scores(weights: Weights) -> None:
    expected = golden_expected()["token_scores"]
    assert set(expected) == set(SCHEMES)
    for scheme, (scale, bias) in SCHEMES.items():
        result = tw.token_norms(weights, scale=scale, bias=bias, convention="published")
        assert result.scheme == scheme
        for end, table in (("top", result.top(5)), ("bottom", result.bottom(5))):
            ids, scores = zip(*expected[scheme][end], strict=True)
            assert table.token_index.tolist() == list(ids)
            assert table.score.tolist() == pytest.approx(list(scores), rel=1e-4)


def check_probes(weights: Weights) -> None:
    gold = golden_expected()
    words, k = gold["tokens"], gold["k"]
    for layer in range(3):
        options = {"layer": layer, "words": words, "k": k, "convention": "published"}
        qk = cells(tw.head_probe(weights, **options).to_dataframe(), "component", "word_index")
        ov = tw.head_probe(weights, circuit="OV", **options).to_dataframe()
        vo = cells(ov, "component", "word_index")
        key_of_layer = str(layer)
        assert len(qk) == 4 * len(words) and len(vo) == 5 * len(words)
        for i, word in enumerate(words):
            for head in range(4):
                key = (f"L{layer}H{head}", word)
                assert_ids(qk[key], gold["qk"][key_of_layer][str(word)][head])
                assert_ids(vo[key], gold["vo"][key_of_layer][str(word)][head])
                norm = gold["value_norms"][key_of_layer][head][i]
                assert vo[key]["norm"].tolist() == pytest.approx([norm] * k, rel=1e-4)
            of_layer = vo[f"L{layer}", word]
            assert_ids(of_layer, gold["vo_layer_sum"][key_of_layer][str(word)])
            norm = gold["value_norms_layer_sum"][key_of_layer][i]
            assert of_layer["norm"].tolist() == pytest.approx([norm] * k, rel=1e-4)


def check_spectra(weights: Weights) -> None:
    gold = golden_expected()
    for layer in range(3):
        for circuit, name in (("QK", "qk"), ("OV", "vo")):
            expected = gold[f"svd_{name}"][str(layer)]
            n = len(expected[0]["left"])
            result = tw.head_spectrum(
                weights, layer=layer, circuit=circuit, n=n, k=gold["k"], convention="published"
            )
            table = cells(result.to_dataframe(), "component", "side", "direction")
            assert n >= 2 and len(table) == 4 * 2 * n
            for head in range(4):
                values = gold[f"singular_values_{name}"][str(layer)][head]
                assert result.singular_values[head].tolist() == pytest.approx(values, rel=1e-4)
                for side in ("left", "right"):
                    for direction, ids in enumerate(expected[head][side]):
                        assert_ids(table[f"L{layer}H{head}", side, direction], ids)


def check_bias_directions(weights: Weights) -> None:
    gold = golden_expected()
    for layer in range(3):
        result = tw.bias_directions(weights, layer=layer, k=gold["k"], convention="published")
        table = cells(result.to_dataframe(), "component", "sign", "side")
        assert len(table) == 16
        for head in range(4):
            expected = gold["bias_tokens"][str(layer)][head]
            assert set(expected) == {"+query", "-query", "+key", "-key"}
            for key, ids in expected.items():
                assert_ids(table[f"L{layer}H{head}", key[0], key[1:]], ids)


CHECKS: list[Callable[[Weights], None]] = [
    check_embedding_distances,
    check_token_scores,
    check_probes,
    check_spectra,
    check_bias_directions,
]
