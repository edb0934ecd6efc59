"""Every field of the bridge's configuration: read, held by the original module, or without effect.

A field that TransformerLens adds is in none of the tables and fails the first test.
"""

import dataclasses
import inspect
from typing import Any

import pytest

import tw_lens as tw
from tests.zoo import native

ROTARY = {"positional_embedding_type": "rotary"}
READ = {
    "architecture", "original_architecture", "model_name", "d_model", "d_vocab", "n_ctx", "eps",
    "attention_dir", "attn_scale", "attn_scores_soft_cap", "attn_types", "gated_q_proj",
    "output_logits_soft_cap", "positional_embedding_type", "qk_norm_after_rope",
    "rotary_adjacent_pairs", "rotary_interleaved_cos_sin",
}  # fmt: skip
# The original module computes with its own value, which is read there or found by calling it.
BY_THE_MODULE = {
    "d_head": "the width of its projections",
    "per_layer_head_dim": "the width of its projections",
    "n_heads": "the width of its projections",
    "n_key_value_heads": "the width of its projections",
    "per_layer_num_key_value_heads": "the width of its projections",
    "ungroup_grouped_query_attention": "the width of its projections",
    "n_layers": "the number of its blocks",
    "d_vocab_out": "the width of its unembedding",
    "d_mlp": "the MLP runs",
    "act_fn": "the MLP runs",
    "gated_mlp": "the MLP runs",
    "num_experts": "the MLP runs",
    "experts_per_token": "the MLP runs",
    "attn_only": "the step is the attention's alone",
    "parallel_attn_mlp": "the MLP runs",
    "normalization_type": "norms are called",
    "uses_rms_norm": "norms are called",
    "rmsnorm_uses_offset": "norms are called",
    "layer_norm_folding": "norms are called",
    "final_rms": "norms are called",
    "post_embedding_ln": "the norm behind the embedding is a module",
    "use_normalization_before_and_after": "the norm after attention is a module",
    "use_qk_norm": "the norms of queries and keys are modules",
    "use_attn_scale": "the attention's own scale",
    "scale_attn_by_inverse_layer_idx": "the original configuration's",
    "scale_embedding": "the embedding is called",
    "window_size": "the original configuration's sliding_window",
    "use_local_attn": "the original configuration's layer types",
    "rotary_base": "the module of the rotation is called",
    "rotary_dim": "the module of the rotation is called",
    "use_NTK_by_parts_rope": "the module of the rotation is called",
    "NTK_by_parts_factor": "the module of the rotation is called",
    "NTK_by_parts_low_freq_factor": "the module of the rotation is called",
    "NTK_by_parts_high_freq_factor": "the module of the rotation is called",
    "relative_attention_max_distance": "relative positions, which are rejected by name",
    "relative_attention_num_buckets": "relative positions, which are rejected by name",
    "load_in_4bit": "quantised parameters, which are rejected by name",
    "tie_word_embeddings": "the two matrices are read apart",
    "dtype": "the parameters' own format",
}
WITHOUT_EFFECT = {
    "attn_implementation", "checkpoint_index", "checkpoint_label_type", "checkpoint_value",
    "decoder_start_token_id", "default_padding_side", "default_prepend_bos", "device",
    "from_checkpoint", "init_mode", "init_weights", "initializer_range", "is_audio_model",
    "is_multimodal", "is_stateful", "is_visual_model", "mm_tokens_per_image", "n_devices",
    "n_params", "seed", "tokenizer_appends_eos", "tokenizer_name", "tokenizer_prepends_bos",
    "trust_remote_code", "use_attn_in", "use_attn_result", "use_hook_mlp_in", "use_hook_tokens",
    "use_split_qkv_input", "vision_hidden_size", "vision_num_heads", "vision_num_layers",
}  # fmt: skip
ADAPTERS_OWN = {"gated_q_proj"}  # an adapter sets it; the configuration does not declare it

# TransformerLens' own model takes its settings from this configuration alone.
NATIVE: dict[str, dict[str, Any]] = {
    "rotary_base": {**ROTARY, "rotary_base": 100},
    "rotary_adjacent_pairs": {**ROTARY, "rotary_adjacent_pairs": True},
    "post_embedding_ln": {"post_embedding_ln": True},
    "use_qk_norm": {"use_qk_norm": True},
    "scale_attn_by_inverse_layer_idx": {"scale_attn_by_inverse_layer_idx": True},
    "final_rms": {"final_rms": True},
    "parallel_attn_mlp": {"parallel_attn_mlp": True},
    "use_local_attn": {
        "use_local_attn": True, "window_size": 3, "attn_types": ["global", "local", "local"],
    },
    "use_normalization_before_and_after": {"use_normalization_before_and_after": True},
    "d_vocab_out": {"d_vocab_out": 7},
    "num_experts": {"num_experts": 2, "experts_per_token": 1},
    "use_NTK_by_parts_rope": {**ROTARY, "use_NTK_by_parts_rope": True},
    "rmsnorm_uses_offset": {"normalization_type": "RMS", "rmsnorm_uses_offset": True},
    "scale_embedding": {"scale_embedding": True},
    "eps": {"eps": 0.1},
}  # fmt: skip


def test_every_field_is_known():
    from transformer_lens.config import TransformerBridgeConfig

    parameters = set(inspect.signature(TransformerBridgeConfig.__init__).parameters)
    fields = {field.name for field in dataclasses.fields(TransformerBridgeConfig)}
    tables = [READ - ADAPTERS_OWN, set(BY_THE_MODULE), WITHOUT_EFFECT]
    known = set().union(*tables)
    assert sum(map(len, tables)) == len(known)
    assert (parameters | fields) - {"self", "kwargs"} <= known


@pytest.mark.parametrize("name", NATIVE)
def test_settings_of_the_native_model(name: str):
    assert tw.check(native(**NATIVE[name]), list(range(5, 17))).passed
