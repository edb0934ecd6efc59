"""Every field of HookedTransformerConfig: read, without effect on a reading, or rejected by name.

A field that TransformerLens adds is in none of the three and fails the first test.
"""

import dataclasses
from typing import Any

import pytest
import torch

import tw_lens as tw
from tests.models import _quietly

PROMPT = list(range(5, 17))
ROTARY = {"positional_embedding_type": "rotary"}
YARN = {
    **ROTARY, "use_yarn_rope": True, "yarn_factor": 4.0, "yarn_attention_factor": 1.3,
    "yarn_original_max_position_embeddings": 8, "yarn_beta_fast": 16.0, "yarn_beta_slow": 2.0,
    "yarn_truncate": False,
}  # fmt: skip
LOCAL = {"use_local_attn": True, "window_size": 3, "attn_types": ["global", "local"]}
BY_PARTS = {
    **ROTARY, "use_NTK_by_parts_rope": True, "NTK_original_ctx_len": 8, "NTK_by_parts_factor": 2.0,
    "NTK_by_parts_low_freq_factor": 0.5, "NTK_by_parts_high_freq_factor": 2.0,
}  # fmt: skip

# Settings under which the certificate must pass.
READ: dict[str, dict[str, Any]] = {
    "d_model": {"d_model": 16},
    "d_head": {"d_head": 6},
    "n_layers": {"n_layers": 1},
    "n_ctx": {"n_ctx": 16},
    "n_heads": {"n_heads": 3},
    "d_mlp": {"d_mlp": 7},
    "d_vocab": {"d_vocab": 23},
    "d_vocab_out": {"d_vocab_out": 7},
    "n_key_value_heads": {"n_key_value_heads": 2},
    "ungroup_grouped_query_attention": {
        "n_key_value_heads": 2, "ungroup_grouped_query_attention": True,
    },
    "attn_only": {"attn_only": True, "act_fn": None, "d_mlp": None},
    "eps": {"eps": 0.1},
    "act_fn": {"act_fn": "solu_ln"},
    "normalization_type": {"normalization_type": None},
    "final_rms": {"final_rms": True},
    "num_experts": {"num_experts": 2, "experts_per_token": 1},
    "experts_per_token": {"num_experts": 3, "experts_per_token": 2},
    "norm_topk_prob": {"num_experts": 3, "experts_per_token": 2, "norm_topk_prob": True},
    "gated_mlp": {"gated_mlp": True},
    "parallel_attn_mlp": {"parallel_attn_mlp": True},
    "use_attn_scale": {"use_attn_scale": False},
    "attn_scale": {"attn_scale": 3.0},
    "scale_attn_by_inverse_layer_idx": {"scale_attn_by_inverse_layer_idx": True},
    "use_qk_norm": {"use_qk_norm": True, "n_key_value_heads": 2, **ROTARY},
    "use_logn_attn": {"use_logn_attn": True, "train_seq_length": 4},
    "train_seq_length": {"use_logn_attn": True, "train_seq_length": 7, **ROTARY},
    "use_local_attn": LOCAL,
    "window_size": {**LOCAL, "window_size": 5},
    "attn_types": {**LOCAL, "attn_types": ["local", "local"]},
    "attention_dir": {"attention_dir": "bidirectional"},
    "positional_embedding_type": {"positional_embedding_type": "alibi", "n_heads": 6},
    "post_embedding_ln": {"post_embedding_ln": True},
    "rotary_dim": {**ROTARY, "rotary_dim": 4},
    "rotary_base": {**ROTARY, "rotary_base": 100},
    "rotary_base_local": {**ROTARY, **LOCAL, "rotary_base_local": 100},
    "rotary_scaling_factor": {**ROTARY, "rotary_scaling_factor": 2.0},
    "rotary_adjacent_pairs": {**ROTARY, "rotary_adjacent_pairs": True},
    "use_normalization_before_and_after": {
        "use_normalization_before_and_after": True, "normalization_type": "RMS",
    },
    "attn_scores_soft_cap": {"attn_scores_soft_cap": 2.0},
    "output_logits_soft_cap": {"output_logits_soft_cap": 3.0},
    "use_attention_sinks": {"use_attention_sinks": True},
    "original_architecture": {
        "original_architecture": "Olmo2ForCausalLM", "normalization_type": "RMS",
    },
    "use_attn_result": {"use_attn_result": True},
    "use_split_qkv_input": {"use_split_qkv_input": True},
    "use_attn_in": {"use_attn_in": True},
    "use_hook_mlp_in": {"use_hook_mlp_in": True},
    "use_hook_tokens": {"use_hook_tokens": True},
    **dict.fromkeys((name for name in YARN if "yarn" in name), YARN),
    "yarn_global_attn_only": {**YARN, **LOCAL, "yarn_global_attn_only": True},
    **dict.fromkeys((name for name in BY_PARTS if "NTK" in name), BY_PARTS),
}  # fmt: skip
MORE = {
    "norm of the embedding under rotation": {"post_embedding_ln": True, **ROTARY},
    "norm of the embedding under ALiBi": {
        "post_embedding_ln": True, "positional_embedding_type": "alibi", "n_heads": 3,
    },
    "no norm and no MLP": {
        "normalization_type": None, "attn_only": True, "act_fn": None, "d_mlp": None,
    },
    "modular addition": {
        "n_layers": 1, "normalization_type": None, "d_vocab_out": 49, "act_fn": "relu",
    },
    "ungrouped with norms": {
        "n_key_value_heads": 1, "ungroup_grouped_query_attention": True, "use_qk_norm": True,
    },
    "OLMo 3": {
        "original_architecture": "Olmo3ForCausalLM", "normalization_type": "RMS",
        "n_key_value_heads": 2, **ROTARY,
    },
    "a name of a post-norm model": {"original_architecture": "OpenAIGPTLMHeadModel"},
    "a name of a model with a norm of embeddings": {"original_architecture": "NanoChatForCausalLM"},
}  # fmt: skip
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "clip_qkv": ({"clip_qkv": 0.5}, "clips its queries, keys and values"),
    "use_dynamic_ntk_rope": (
        {**ROTARY, "use_dynamic_ntk_rope": True, "train_seq_length": 4},
        "rotates by the length of the prompt",
    ),
    "positional_embedding_type": (
        {"positional_embedding_type": "shortformer"},
        "of the kind shortformer, not certified",
    ),
}
WITHOUT_EFFECT = {
    "model_name": "a name",
    "tokenizer_name": "a name",
    "device": "weights are copied to the CPU",
    "n_devices": "weights are copied to the CPU",
    "dtype": "tests/reading/test_half.py",
    "seed": "initialisation",
    "init_mode": "initialisation",
    "init_weights": "initialisation",
    "initializer_range": "initialisation",
    "n_params": "a count",
    "from_checkpoint": "where the weights came from",
    "checkpoint_index": "where the weights came from",
    "checkpoint_label_type": "where the weights came from",
    "checkpoint_value": "where the weights came from",
    "trust_remote_code": "where the weights came from",
    "default_prepend_bos": "the model tokenizes by itself",
    "tokenizer_prepends_bos": "the model tokenizes by itself",
    "decoder_start_token_id": "two stacks, which are rejected",
    "relative_attention_max_distance": "relative positions, which are rejected",
    "relative_attention_num_buckets": "relative positions, which are rejected",
    "load_in_4bit": "quantised weights, which are rejected (tests/reading/test_refusals.py)",
    "quantization_method": "quantised weights, which are rejected",
    "uses_rms_norm": "not used by HookedTransformer; norms are identified by calling them",
    "layer_norm_folding": "not used by HookedTransformer; norms are identified by calling them",
    "tie_word_embeddings": "the two matrices are read apart",
}


def hooked(**settings: Any) -> Any:
    """Return a HookedTransformer with two layers and every parameter away from 1 and 0."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = {
        "n_layers": 2, "d_model": 32, "n_ctx": 24, "d_head": 8, "n_heads": 4, "d_vocab": 50,
        "act_fn": "gelu", "d_mlp": 64, "normalization_type": "LN", "seed": 0, "device": "cpu",
    }  # fmt: skip
    model = _quietly(HookedTransformer, HookedTransformerConfig(**(sizes | settings)))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def test_every_field_is_known():
    from transformer_lens import HookedTransformerConfig

    fields = {field.name for field in dataclasses.fields(HookedTransformerConfig)}
    assert fields == set(READ) | set(REFUSED) | set(WITHOUT_EFFECT)
    assert not set(WITHOUT_EFFECT) & (set(READ) | set(REFUSED))


@pytest.mark.parametrize("name", [*READ, *MORE])
def test_settings_that_are_read(name: str):
    model = hooked(**(READ | MORE)[name])
    assert tw.check(model, PROMPT).max_rel_error < 1e-5


@pytest.mark.parametrize("name", [name for name in READ if not name.startswith("use_hook")])
def test_settings_do_something(name: str):
    """Else a setting that is not read would pass as well: the fields here are not the default."""
    defaults = hooked().cfg
    settings = READ[name]
    assert any(getattr(defaults, field) != value for field, value in settings.items())
    assert name in settings


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_are_rejected(name: str):
    settings, part = REFUSED[name]
    model = hooked(**settings)
    for call in (tw.read_weights, lambda m: tw.check(m, PROMPT)):
        with pytest.raises(tw.UnsupportedModelError, match=part):
            call(model)


def test_words_enter_the_first_block_through_the_norm_of_the_embedding():
    model = hooked(post_embedding_ln=True)
    block = tw.read_weights(model).block(0)
    found = tw.head_probe(tw.read_weights(model), layer=0, words=[3], circuit="QK", k=3, head=0)
    with torch.no_grad():
        x = model.blocks[0].ln1(model.embed(torch.arange(50)[None]))[0]
        attn = model.blocks[0].attn
        q, k = x @ attn.W_Q[0] + attn.b_Q[0], x @ attn.W_K[0] + attn.b_K[0]
        constant = q[3] @ block.a_K[0]  # the same for every key: not a part of the score
        best = ((q[3] @ k.T - constant) / attn.attn_scale).topk(3)
    table = found.to_dataframe()
    assert table.token_index.tolist() == best.indices.tolist()
    assert table.score.tolist() == pytest.approx(best.values.tolist(), abs=1e-3)


def test_tables_of_a_rotation_grow_with_the_prompt():
    """They hold 2,048 positions at first, and more after a longer prompt was run."""
    model = hooked(**ROTARY, n_ctx=2100, n_layers=1, d_model=4, n_heads=1, d_head=4)
    ids = torch.arange(2060) % 50
    assert tw.check(model, ids).max_rel_error < 1e-4
