"""Small models with seeded random weights, of many kinds; nothing is downloaded.

One-dimensional parameters and biases of experts are moved away from 1 and 0 (at initialisation
folding mistakes have no effect) and matrices are enlarged, so that attention is far from uniform.
"""

from __future__ import annotations

import json
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

GOLDEN = Path(__file__).parent / "data" / "tiny-gpt2"
VOCABULARY = 997
CONTEXT = 64
BRIDGES = ("gpt2", "neox", "llama", "mistral", "qwen2", "gemma")

GROUPED = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model_type": "gpt2", "class": "GPT2LMHeadModel",
        "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT,
    },
    "neox": {
        "model_type": "gpt_neox", "class": "GPTNeoXForCausalLM",
        "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 96,
    },
    "llama": {
        "model_type": "llama", "class": "LlamaForCausalLM", **GROUPED, "num_attention_heads": 6,
    },
    "mistral": {
        "model_type": "mistral", "class": "MistralForCausalLM", **GROUPED, "head_dim": 16,
        "sliding_window": None,
    },
    "qwen2": {"model_type": "qwen2", "class": "Qwen2ForCausalLM", **GROUPED},
    "gemma": {
        "model_type": "gemma", "class": "GemmaForCausalLM", **GROUPED, "num_key_value_heads": 1,
        "head_dim": 16,
    },
    # Layers with a sliding window: all of them, the later ones, every other one.
    "mistral-window": {
        "model_type": "mistral", "class": "MistralForCausalLM", **GROUPED, "sliding_window": 4,
    },
    "qwen2-window": {
        "model_type": "qwen2", "class": "Qwen2ForCausalLM", **GROUPED, "sliding_window": 4,
        "use_sliding_window": True, "max_window_layers": 1,
    },
    "neo": {
        "model_type": "gpt_neo", "class": "GPTNeoForCausalLM",
        "hidden_size": 48, "num_layers": 2, "num_heads": 4, "window_size": 4,
        "attention_types": [[["global", "local"], 1]],
    },
    "qwen3": {"model_type": "qwen3", "class": "Qwen3ForCausalLM", **GROUPED, "head_dim": 16},
    "gemma2": {"model_type": "gemma2", "class": "Gemma2ForCausalLM", **GROUPED, "head_dim": 16},
    "mamba": {
        "model_type": "mamba", "class": "MambaForCausalLM",
        "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4,
    },
}  # fmt: skip

QUERIES_AND_KEYS = ("q_proj", "k_proj", "c_attn", "query_key_value")


def tiny_hf(architecture: str, seed: int = 0) -> Any:
    """Return a Hugging Face causal language model with 3 layers and random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    options = dict(CONFIGS[architecture])
    model_type, class_name = options.pop("model_type"), options.pop("class")
    if "n_positions" not in options and model_type != "mamba":
        options["max_position_embeddings"] = CONTEXT
    config = AutoConfig.for_model(
        model_type, **options, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0,
        pad_token_id=None,
    )  # fmt: skip
    config.architectures = [class_name]
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    return perturbed(AutoModelForCausalLM.from_config(config).eval(), seed)


def perturbed(model: Any, seed: int) -> Any:
    """Move gains and biases away from 1 and 0, and attention away from uniform."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or name.endswith("proj_bias"):
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        else:
            parameter.data.mul_(12 if any(part in name for part in QUERIES_AND_KEYS) else 4)
    for name, buffer in model.named_buffers():
        if name.endswith("final_logits_bias"):  # of Marian and BART
            buffer.add_(torch.randn(buffer.shape, generator=generator))
        if name.endswith(
            "layer_scalar"
        ):  # Gemma 4 multiplies its residual stream by a number that is 1
            buffer.fill_(0.7)
    return model


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """Return the golden model's toy tokenizer: `w5` is token 5."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(GOLDEN))


def as_bridge(hf_model: Any, name: str) -> Any:
    """Wrap a Hugging Face model in a TransformerBridge."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        name, hf_model=hf_model, tokenizer=tokenizer(), device="cpu"
    )


def tiny_bridge(architecture: str, seed: int = 0) -> Any:
    """Return `tiny_hf` in a TransformerBridge, a new one at every call."""
    return as_bridge(tiny_hf(architecture, seed), f"tiny-{architecture}")


@lru_cache(maxsize=16)
def shared_bridge(architecture: str, processed: bool = False) -> Any:
    """Return a `tiny_bridge` for tests that only read; `processed` by TransformerLens."""
    model = tiny_bridge(architecture)
    if processed:
        model.enable_compatibility_mode()
    return model


def golden_hf() -> Any:
    """Return the golden GPT-2 as Hugging Face loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(GOLDEN), dtype=torch.float32).eval()


def golden_bridge() -> Any:
    """Return the golden GPT-2 in a TransformerBridge, raw."""
    return as_bridge(golden_hf(), "golden-gpt2")


@lru_cache(maxsize=1)
def golden_expected() -> dict[str, Any]:
    """Return the results of the published experiments on the golden GPT-2."""
    return json.loads((GOLDEN / "expected.json").read_text())


def _quietly(build: Any, *arguments: Any, **options: Any) -> Any:
    """Call without TransformerLens' deprecation warning for its own models."""
    with warnings.catch_warnings():
        message = "Hooked(Transformer|Encoder) is deprecated"
        warnings.filterwarnings("ignore", message, DeprecationWarning)
        return build(*arguments, **options)


def tiny_hooked(
    norm: str = "LN",
    biases: bool = True,
    n_kv_heads: int | None = None,
    rotary: bool = False,
    seed: int = 0,
) -> Any:
    """Return a HookedTransformer with 3 layers (TransformerLens 3.9 only).

    `biases=False` leaves the attention's, the MLP's and the unembedding's biases at zero; the
    norms keep theirs.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=3, d_model=32, n_ctx=CONTEXT, d_head=8, n_heads=4, n_key_value_heads=n_kv_heads,
        d_vocab=101, act_fn="gelu", d_mlp=64, normalization_type=norm, seed=seed,
        positional_embedding_type="rotary" if rotary else "standard",
        rotary_dim=8 if rotary else None, model_name="tiny-hooked", device="cpu",
    )  # fmt: skip
    model = _quietly(HookedTransformer, config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = 0.3 * torch.randn(parameter.shape, generator=generator)
        leaf = name.split(".")[-1]
        if ".ln" in f".{name}":
            parameter.data += noise
        elif leaf.startswith(("b_", "_b_")):
            parameter.data.copy_(noise if biases else torch.zeros_like(noise))
        else:
            parameter.data.copy_(noise)
    return model.eval()


def golden_hooked() -> Any:
    """Return the golden GPT-2 as an unprocessed HookedTransformer (TransformerLens 3.9 only)."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    hf_model = golden_hf()
    old = hf_model.config
    config = HookedTransformerConfig(
        n_layers=old.n_layer, d_model=old.n_embd, n_ctx=old.n_positions, n_heads=old.n_head,
        d_head=old.n_embd // old.n_head, d_vocab=old.vocab_size, d_mlp=4 * old.n_embd,
        act_fn=old.activation_function, normalization_type="LN", eps=old.layer_norm_epsilon,
        original_architecture="GPT2LMHeadModel", model_name="golden-gpt2", device="cpu",
        default_prepend_bos=False,
    )  # fmt: skip
    model = _quietly(HookedTransformer, config, tokenizer=tokenizer())
    model.load_and_process_state_dict(
        convert_gpt2_weights(hf_model, config), fold_ln=False, center_writing_weights=False,
        center_unembed=False, fold_value_biases=False, refactor_factored_attn_matrices=False,
    )  # fmt: skip
    return model.eval()
