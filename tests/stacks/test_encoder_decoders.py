"""Encoder-decoders: both stacks and the crossing are exact, against hooks and transformers."""

import pickle
import warnings
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch

import tw_lens as tw
from tests.encoder_decoders import NAMES, SOURCE, TARGET, shared, shared_stack
from tests.models import shared_bridge
from tests.zoo import tiny, zoo_bridge
from tw_lens.reading.stack_names import shown_names

EXACT = 2e-5
CROSSED = {"cross_q", "cross_k", "cross_v", "cross_out"}
ENCODED = {"q", "k", "v", "attn_out", "resid"}
WITHOUT_SCORES = {"Switch", "LED", "LongT5"}  # their hooks hold no scores of queries by keys


@pytest.mark.parametrize("processed", [False, True], ids=["raw", "processed"])
@pytest.mark.parametrize("name", NAMES)
def test_both_stacks_and_the_crossing_are_exact(name: str, processed: bool):
    certificate = tw.check(shared(name, processed), SOURCE, TARGET)
    assert certificate.max_rel_error < EXACT, certificate
    table = certificate.to_dataframe()
    of = {side: set(rows.quantity) for side, rows in table.groupby("stack")}
    assert of["encoder"] >= ENCODED and of["decoder"] >= ENCODED | CROSSED | {"logits"}
    if name not in WITHOUT_SCORES:
        assert of["decoder"] >= {"attn_scores", "cross_attn_scores", "mlp_pre", "mlp_out"}
    assert certificate.tokens == tuple(TARGET) and certificate.source_tokens == tuple(SOURCE)


def require_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.dtype == theirs.dtype == torch.float64
    assert float((ours - theirs).abs().max()) < 1e-5


def final_norm(encoder: Any) -> Any:
    """Return the norm behind an encoder's last block; None in post-norm models."""
    names = ("final_layer_norm", "layer_norm", "norm")
    return next((found for name in names if (found := getattr(encoder, name, None))), None)


def doubled(value: Any) -> Any:
    """Return a canonical object with float64 in the place of float32."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(map(doubled, value))
    if is_dataclass(value):
        return replace(value, **{f.name: doubled(getattr(value, f.name)) for f in fields(value)})
    return value


@pytest.mark.parametrize("name", ["T5", "BART", "mBART", "Marian", "Pegasus", "Blenderbot"])
def test_patterns_and_states_are_those_of_transformers(name: str):
    """The oracle runs without TransformerLens, in float64; the canonical form is cast to it."""
    model = tiny(NAMES[name]).double()
    final, before = final_norm(model.get_encoder()), []
    if final is not None:
        final.register_forward_pre_hook(lambda _module, inputs: before.append(inputs[0][0]))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = model(
            input_ids=torch.tensor([SOURCE]), decoder_input_ids=torch.tensor([TARGET]),
            output_attentions=True, output_hidden_states=True,
        )  # fmt: skip
    _, encoder, _ = shared_stack(name, "encoder")
    _, decoder, _ = shared_stack(name, "decoder")
    xs = [x[0] for x in theirs.encoder_hidden_states]
    for layer in range(encoder.n_layers):
        pattern = doubled(encoder.block(layer)).attention_pattern(xs[layer])
        require_close(pattern, theirs.encoder_attentions[layer][0])
    source = before[0] if before else xs[-1]  # which the canonical form normalises itself
    states = shared_stack(name, "decoder")[2]
    for layer, x in enumerate(theirs.decoder_hidden_states[:-1]):
        assert float((states.stream[layer] - x[0]).abs().max()) < 1e-5 * float(x.abs().max())
        block, cross = doubled(decoder.block(layer)), doubled(decoder.cross_block(layer))
        pattern = block.attention_pattern(x[0])
        require_close(pattern, theirs.decoder_attentions[layer][0])
        mid = block.resid_mid(x[0], block.attn_out(pattern, block.values(x[0]), x[0]))
        require_close(cross.attention_pattern(mid, source), theirs.cross_attentions[layer][0])


@pytest.mark.parametrize("name", ["T5", "BART", "LED"])
def test_the_source_is_the_encoders_own_final_state(name: str):
    encoder, decoder = (shared_stack(name, stack)[2] for stack in ("encoder", "decoder"))
    assert decoder.crossing is not None and encoder.crossing is None
    assert torch.allclose(decoder.crossing.source, encoder.stream[-1], rtol=1e-5, atol=1e-5)
    assert decoder.crossing.source_token_strings == encoder.token_strings


@pytest.mark.parametrize("name", ["T5", "BART", "mBART"])
def test_heads_of_both_attentions_and_the_mlp_add_up_to_the_step(name: str):
    _, weights, states = shared_stack(name, "decoder")
    found = tw.trajectory_attribution(weights, states, neurons=2)
    assert found.residual_error < 1e-5
    assert {"H0", "X0", "X3", "MLP"} <= set(found.components)
    assert {"DL0H1", "DL1X2"} <= set(found.to_dataframe().component)
    total = found.share.nansum(1)
    _, step = states.stream[:-1], states.stream[1:] - states.stream[:-1]
    assert torch.allclose(total, torch.ones_like(total), atol=1e-4), step.shape
    assert found.neurons is not None and found.neurons.error < 1e-5


def test_taking_a_cross_head_out_of_the_running_model_changes_the_stream_by_its_part():
    """T5's third cross head is silenced by a hook on z; the stream moves by minus its output."""
    model = shared("T5")
    _, cross, states = shared_stack("T5", "cross")
    block, layer, head = cross.attention_block(1), 1, 2
    assert states.crossing is not None
    mid, source = states.stream[layer] + states.attn_out[layer], states.crossing.source
    pattern = block.attention_pattern(mid, source)
    written = block.head_outputs(pattern, block.values(source), mid)[head]

    def silence(z: torch.Tensor, hook: object) -> torch.Tensor:
        z = z.clone()
        z.reshape(*z.shape[:2], block.n_heads, -1)[:, :, head] = 0
        return z

    hook = "decoder_blocks.1.hook_resid_mid2"
    tokens = {"input": torch.tensor([SOURCE]), "decoder_input": torch.tensor([TARGET])}
    with torch.no_grad():
        _, plain = model.run_with_cache(**tokens, names_filter=[hook])
        with model.hooks(fwd_hooks=[("decoder_blocks.1.cross_attn.o.hook_in", silence)]):
            _, changed = model.run_with_cache(**tokens, names_filter=[hook])
    moved = (changed[hook] - plain[hook])[0]
    assert float(written.abs().max()) > 0.1
    assert float((moved + written).abs().max()) < 1e-4 * float(written.abs().max())


def test_labels_name_the_stack_and_the_attention():
    labels = {
        stack: tw.head_atlas(shared_stack("T5", stack)[1], n=1, k=2).to_dataframe().component[0]
        for stack in ("encoder", "decoder", "cross")
    }
    assert labels == {"encoder": "EL0H0", "decoder": "DL0H0", "cross": "DL0X0"}


def test_cross_attention_reads_keys_on_the_encoders_sphere():
    """The spectrum's right side and the probe's keys are scored as the block scores them."""
    _, weights, _ = shared_stack("T5", "cross")
    block = weights.attention_block(1)
    probe = tw.head_probe(weights, layer=1, words=[7], k=3)
    source = weights.source_vocabulary
    assert source is not None and block.source_norm is not None
    keys = block.keys(source.embed(torch.arange(weights.d_vocab)))
    query = block.queries(weights.vocabulary.embed(torch.tensor([7])))
    scores = torch.einsum("he,whe->hw", query[0], keys)
    for h in range(block.n_heads):
        assert probe.lists.token_index[h].tolist() == scores[h].topk(3).indices.tolist()
        assert torch.allclose(probe.lists.score[h], scores[h].topk(3).values, rtol=1e-4)
    wrong = block.queries(source.embed(torch.arange(weights.d_vocab)))
    assert not torch.allclose(wrong, keys)


def test_states_survive_a_file_and_weights_a_copy(tmp_path):
    _, weights, states = shared_stack("BART", "decoder")
    again = tw.load_states(tw.save_states(states, tmp_path / "states.safetensors"))
    assert again.crossing is not None and states.crossing is not None
    assert torch.equal(again.crossing.source, states.crossing.source)
    assert again.crossing.source_token_strings == states.crossing.source_token_strings
    copied = pickle.loads(pickle.dumps(weights))
    before = tw.trajectory_attribution(weights, states)
    assert torch.equal(tw.trajectory_attribution(copied, again).share, before.share)


def test_states_of_one_stack_are_not_read_with_the_weights_of_another():
    _, encoder, states = shared_stack("BART", "encoder")
    _, decoder, _ = shared_stack("BART", "decoder")
    tw.trajectory(encoder, states)
    with pytest.raises(ValueError, match="different parameters"):
        tw.trajectory(decoder, states)
    with pytest.raises(ValueError, match="different parameters"):
        tw.attention_pattern(shared_stack("BART", "cross")[1], states, layer=0)


def test_what_does_not_fit_is_said():
    model = shared("T5")
    with pytest.raises(ValueError, match=r"give what each reads: check\(model, source, target\)"):
        tw.check(model, SOURCE)
    with pytest.raises(ValueError, match="has one stack"):
        tw.check(shared_bridge("gpt2"), [5, 6], [7])
    with pytest.raises(ValueError, match="reads a source; give it"):
        tw.read_states(tw.stack(model, "decoder"), TARGET)
    with pytest.raises(ValueError, match="leave source out"):
        tw.stack(model, "encoder", source=SOURCE)
    with pytest.raises(ValueError, match="'encoder', 'decoder', 'cross'"):
        tw.stack(model, "both")
    with pytest.raises(tw.UnsupportedModelError, match="no encoder and decoder"):
        tw.stack(shared_bridge("gpt2"), "encoder")
    with pytest.raises(tw.UnsupportedModelError, match=r'stack\(model, "encoder"\)'):
        tw.read_weights(model)
    with pytest.raises(tw.UnsupportedModelError, match="to the encoder in one softmax"):
        tw.check(zoo_bridge("T5Gemma2ForConditionalGeneration"), SOURCE, TARGET)


def test_a_text_for_the_decoder_is_shifted_behind_its_start_token():
    model = shared("T5")
    decoder = tw.stack(model, "decoder", source="w5 w6")
    states = tw.read_states(decoder, "w7 w8 w9")
    ids = model.tokenizer(text_target="w7 w8 w9")["input_ids"]
    assert ids[0] == decoder.start_token and states.tokens.tolist() == ids  # it ends in no </s>


@pytest.mark.parametrize(
    ("name", "stack", "post_norm", "expected"),
    [
        ("encoder_blocks.1.attn.hook_q", "encoder", False, ["blocks.1.attn.hook_q"]),
        ("encoder_blocks.1.attn.hook_q", "decoder", False, []),
        ("encoder_blocks.1.hook_resid_post", "decoder", False, ["encoder.hook_resid_post"]),
        ("encoder_blocks.0.hook_resid_post", "decoder", False, []),
        ("decoder_blocks.0.self_attn.hook_q", "decoder", False, ["blocks.0.attn.hook_q"]),
        ("decoder_blocks.0.self_attn.hook_q", "cross", False, []),
        ("decoder_blocks.0.cross_attn.hook_q", "cross", False, ["blocks.0.attn.hook_q"]),
        ("decoder_blocks.0.cross_attn.hook_q", "decoder", False, ["blocks.0.cross_attn.hook_q"]),
        ("decoder_blocks.0.ln3.hook_in", "decoder", False,
         ["blocks.0.hook_resid_mid", "blocks.0.ln2.hook_in"]),
        ("decoder_blocks.0.ln2.hook_out", "decoder", True,
         ["blocks.0.hook_resid_mid", "blocks.0.cross_ln.hook_out"]),
        ("decoder_blocks.0.ln2.hook_in", "cross", False,
         ["blocks.0.hook_resid_pre", "blocks.0.ln1.hook_in"]),
        ("decoder_blocks.0.hook_resid_mid", "decoder", False, []),
        ("decoder_ln_final.hook_out", "decoder", False, ["ln_final.hook_out"]),
        ("unembed.hook_in", "decoder", False, ["unembed.hook_in"]),
        ("unembed.hook_in", "encoder", False, []),
    ],
)  # fmt: skip
def test_hooks_have_the_names_of_a_model_with_one_stack(
    name: str, stack: str, post_norm: bool, expected: list[str]
):
    assert shown_names(name, stack, n_source_layers=2, post_norm=post_norm) == expected
