"""A trained model of antibodies: certified, and its first heads read as heads of positions."""

import pytest
import torch

import tw_lens as tw
from tests.antiberty import HEAVY_CHAIN, pretrained, residues, tokenizer

CYSTEINES = (22, 96)  # the two that every heavy chain binds into a bridge; [CLS] is 0
NEAR = range(-8, 9)


def bridge(**options):
    from transformer_lens.model_bridge import TransformerBridge

    # A bridge's modules report their attention several times, so it gets a copy of its own.
    return TransformerBridge.boot_transformers(
        "antiberty",
        hf_model=pretrained("BertForMaskedLM", **options),
        tokenizer=tokenizer(),
        device="cpu",
        **options,
    )


@pytest.fixture(scope="module")
def model():
    return bridge()


@pytest.fixture(scope="module")
def weights(model):
    return tw.read_weights(model)


@pytest.fixture(scope="module")
def theirs():
    """What transformers itself computes, with all attention patterns and hidden states."""
    with torch.no_grad():
        return pretrained("BertForMaskedLM")(
            residues()[None], output_attentions=True, output_hidden_states=True
        )


@pytest.mark.filterwarnings("ignore:BertArchitectureAdapter does not support fold_ln")
def test_certified_raw_and_processed():
    model = bridge()
    raw = tw.check(model, residues())
    assert raw.max_rel_error < 1e-5 and len(raw.tokens) == len(HEAVY_CHAIN) + 2
    assert {"q", "k", "v", "attn_scores", "attn_out", "mlp_pre", "mlp_out", "resid", "logits"} == {
        comparison.quantity for comparison in raw.comparisons
    }
    model.enable_compatibility_mode()
    assert tw.check(model, residues()).max_rel_error < 1e-5


def test_certified_in_bfloat16():
    certificate = tw.check(bridge(dtype=torch.bfloat16), residues())
    assert certificate.passed and certificate.max_rel_error > 1e-4


def test_every_pattern_state_and_logit_is_that_of_transformers(weights, theirs):
    for layer, pattern in enumerate(theirs.attentions):
        before, after = (theirs.hidden_states[n][0] for n in (layer, layer + 1))
        block, mlp = weights.block(layer), weights.mlp(layer)
        ours = block.attention_pattern(before)
        torch.testing.assert_close(ours, pattern[0], atol=1e-5, rtol=0)
        attn_out = block.attn_out(ours, block.values(before), before)
        mid = block.resid_mid(before, attn_out)
        y = mlp.norm.sphere(mid)
        mlp_out = mlp.mlp_out(
            mlp.activations(mlp.pre_activations_of_points(y), y), mlp.biases_out(y)
        )
        found = block.resid_post(before, attn_out, mlp_out)
        torch.testing.assert_close(found, after, atol=2e-5, rtol=0)
    logits = weights.readout.logits(theirs.hidden_states[-1][0])
    torch.testing.assert_close(logits, theirs.logits[0], atol=1e-4, rtol=0)


def test_positions_alone_tell_how_far_the_first_heads_look(weights, theirs):
    """L0H4 is the head of the previous residue, L0H6 of the next, in weights and in use."""
    n = len(residues())
    positions = tw.head_position_scores(weights, layer=0, n=n).scores.softmax(-1)
    read, used = by_distance(positions), by_distance(theirs.attentions[0][0])
    assert float(torch.corrcoef(torch.stack([read.flatten(), used.flatten()]))[0, 1]) > 0.99
    for distance, head in ((-1, 4), (1, 6)):
        column = NEAR.index(distance)
        assert read[:, column].argmax() == used[:, column].argmax() == head
        assert read[head].argmax() == used[head].argmax() == column


def by_distance(pattern: torch.Tensor) -> torch.Tensor:
    """Return each head's mean attention to the keys at every near distance behind the query."""
    return torch.stack([pattern.diagonal(d, dim1=1, dim2=2).mean(-1) for d in NEAR], dim=-1)


@pytest.mark.parametrize("position", CYSTEINES)
def test_a_masked_cysteine_of_the_bridge_is_read_as_one(model, weights, position: int):
    hidden = HEAVY_CHAIN[: position - 1] + "_" + HEAVY_CHAIN[position:]
    path = tw.trajectory(weights, tw.read_states(model, residues(hidden)))
    assert path.readout(weights.n_layers, position)[0] == "C" == HEAVY_CHAIN[position - 1]
    assert path.readout(0, position)[0] != "C"
