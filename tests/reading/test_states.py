"""States from prompts and from activation caches."""

import pytest
import torch

import tw_lens as tw
from tests.models import BRIDGES, CONTEXT, VOCABULARY, shared_bridge, tiny_bridge
from tests.zoo import zoo_bridge
from tw_lens.reading.model_parts import residual_hooks
from tw_lens.reading.states import write_hooks

PROMPT = "w5 w6 w7 w8"


@pytest.mark.parametrize("architecture", BRIDGES)
def test_stream_is_the_models_own(architecture: str):
    model = shared_bridge(architecture)
    states = tw.read_states(model, PROMPT)
    ids = model.to_tokens(PROMPT)
    assert states.tokens.tolist() == ids[0].tolist()
    with torch.no_grad():
        logits, cache = model.run_with_cache(ids)
    for layer in range(3):
        assert torch.equal(states.stream[layer], cache[f"blocks.{layer}.hook_resid_pre"][0])
        assert torch.equal(states.attn_out[layer], cache[f"blocks.{layer}.hook_attn_out"][0])
        assert torch.equal(states.mlp_out[layer], cache[f"blocks.{layer}.hook_mlp_out"][0])
    assert torch.equal(states.stream[3], cache["blocks.2.hook_resid_post"][0])
    assert states.adds_up < 1e-5
    assert states.labels == ["0_pre", "1_pre", "2_pre", "final_post"]
    readout = tw.read_weights(model).readout.logits(states.stream[3])
    assert float((readout - logits[0]).abs().max() / logits.abs().max()) < 1e-5
    assert f"{len(states)} positions, 3 layers" in repr(states)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma"])
def test_text_ids_tensor_and_cache_agree(architecture: str):
    model = shared_bridge(architecture)
    from_text = tw.read_states(model, PROMPT)
    ids = from_text.tokens.tolist()
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([ids]))
    caches = [cache, {name: cache[name] for name in cache}]
    others = [
        tw.read_states(model, ids),
        tw.read_states(model, torch.tensor(ids)),
        tw.read_states(model, torch.tensor([ids])),
        *(tw.read_states(model, other) for other in caches),
        tw.read_states(model, cache, tokens=ids),
    ]
    for other in others:
        assert other.tokens.tolist() == ids
        assert other.token_strings == from_text.token_strings
        assert torch.equal(other.stream, from_text.stream)
        assert torch.equal(other.attn_out, from_text.attn_out)
        assert torch.equal(other.mlp_out, from_text.mlp_out)


def test_cache_without_its_batch_dimension():
    model = shared_bridge("llama")
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([[0, 5, 6, 7]]), remove_batch_dim=True)
    assert cache["blocks.0.hook_resid_pre"].ndim == 2
    states = tw.read_states(model, cache)
    assert states.tokens.tolist() == [0, 5, 6, 7]
    assert torch.equal(states.stream, tw.read_states(model, [0, 5, 6, 7]).stream)


ALL_HOOKS = [*residual_hooks(shared_bridge("llama")), *write_hooks(3)]


def cache_of(model, ids: list[list[int]], keep: list[str]):
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor(ids), names_filter=lambda n: n in keep)
    return cache


def test_cache_that_lacks_hooks():
    model = shared_bridge("gpt2")
    names = [n for n in ALL_HOOKS if not n.startswith("blocks.1.")]
    with pytest.raises(ValueError, match=r"does not hold blocks\.1\.hook_resid_pre"):
        tw.read_states(model, cache_of(model, [[5, 6]], names))
    names = [*names, "blocks.1.hook_resid_pre"]
    with pytest.raises(ValueError, match=r"does not hold blocks\.1\.hook_attn_out"):
        tw.read_states(model, cache_of(model, [[5, 6]], names))


@pytest.mark.parametrize("missing", ["hook_attn_out", "hook_mlp_out"])
def test_a_part_missing_in_a_cache_is_the_remainder_of_the_step(missing: str):
    model = shared_bridge("gpt2")
    whole = tw.read_states(model, [5, 6])
    names = [n for n in ALL_HOOKS if not n.endswith((missing, "o.hook_out"))]
    states = tw.read_states(model, cache_of(model, [[5, 6]], names), tokens=[5, 6])
    assert torch.allclose(states.attn_out, whole.attn_out, atol=1e-5)
    assert torch.allclose(states.mlp_out, whole.mlp_out, atol=1e-5)


def test_cache_of_two_prompts():
    model = shared_bridge("gpt2")
    with pytest.raises(ValueError, match="got 2 prompts"):
        tw.read_states(model, cache_of(model, [[5, 6], [7, 8]], ALL_HOOKS))


def test_cache_without_its_tokens():
    model = shared_bridge("gpt2")
    cache = cache_of(model, [[5, 6, 7]], ALL_HOOKS)
    with pytest.raises(ValueError, match="does not tell which tokens"):
        tw.read_states(model, cache)
    with pytest.raises(ValueError, match="2 tokens were given and the cache holds 3"):
        tw.read_states(model, cache, tokens=[5, 6])
    assert tw.read_states(model, cache, tokens=[5, 6, 7]).token_strings == ("w5", "w6", "w7")


def test_tokens_are_identified_by_their_embeddings():
    model = shared_bridge("gpt2")
    cache = cache_of(model, [[5, 900, 7]], [*ALL_HOOKS, "hook_embed"])
    if "hook_embed" not in cache:
        cache = cache_of(model, [[5, 900, 7]], [*ALL_HOOKS, "embed.hook_out"])
        cache = {
            **{n: cache[n] for n in ALL_HOOKS if n in cache},
            "hook_embed": cache["embed.hook_out"],
        }
    assert tw.read_states(model, cache).tokens.tolist() == [5, 900, 7]


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t", [], torch.tensor([], dtype=torch.long)])
def test_empty_prompts(prompt):
    model = shared_bridge("gpt2")
    for call in (tw.read_states, tw.check):
        with pytest.raises(ValueError, match="prompt is empty"):
            call(model, prompt)


def test_a_prompt_may_be_as_long_as_the_context_and_no_longer():
    model = shared_bridge("gpt2")
    assert len(tw.read_states(model, [5] * CONTEXT)) == CONTEXT
    with pytest.raises(ValueError, match=f"{CONTEXT + 1} tokens and the model's context {CONTEXT}"):
        tw.read_states(model, [5] * (CONTEXT + 1))
    with pytest.raises(ValueError, match=f"context {CONTEXT}"):
        tw.check(model, "w5 " * (CONTEXT + 5))


@pytest.mark.parametrize("bad", [-1, VOCABULARY, 10**9])
def test_ids_outside_the_vocabulary(bad: int):
    with pytest.raises(IndexError, match=f"outside 0 to {VOCABULARY - 1}"):
        tw.read_states(shared_bridge("gpt2"), [5, bad])


def test_two_prompts_at_once():
    with pytest.raises(ValueError, match="one prompt at a time"):
        tw.read_states(shared_bridge("gpt2"), torch.tensor([[5, 6], [7, 8]]))


def test_text_without_a_tokenizer():
    model = tiny_bridge("llama")
    model.tokenizer = None
    with pytest.raises(ValueError, match="no tokenizer"):
        tw.read_states(model, PROMPT)
    assert tw.read_states(model, [5, 6]).token_strings == ("<5>", "<6>")


HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "\u202egnp.exe \u200b\ufeff",
    "w5\x00w6",
    "\U0001f926\U0001f3fc\u200d\u2642\ufe0f",
    "\udcff\ud800 w5",
    "w5\r\nw6\x1b[31m",
    "'; DROP TABLE words; --",
    "{{ 7 * 7 }} {% raw %}",
]


@pytest.mark.parametrize("prompt", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_prompts_are_read_like_any_other(prompt: str):
    model = shared_bridge("llama")
    states = tw.read_states(model, prompt)
    assert len(states) == len(states.tokens) == len(states.token_strings) >= 1
    assert all(string.isprintable() for string in states.token_strings)
    assert torch.isfinite(states.stream).all()
    assert tw.trajectory(tw.read_weights(model), states).norm.shape == (4, len(states))


def test_a_model_with_active_dropout_is_rejected():
    model = tiny_bridge("gpt2")
    model.train()
    for call in (
        lambda: tw.read_states(model, [5, 6, 7]),
        lambda: tw.check(model, [5, 6, 7]),
        lambda: tw.trajectory_statistics(model, [[5, 6, 7]], controls=[]),
        lambda: tw.direction_ablation(model, [[5, 6, 7]], layer=1, head=0),
    ):
        with pytest.raises(ValueError, match=r"tiny-gpt2 is in training mode.*model.eval\(\)"):
            call()
    model.eval()
    assert tw.check(model, [5, 6, 7]).passed


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("OPTForCausalLM", {"dropout": 0.5}),
        ("GraniteForCausalLM", {"attention_dropout": 0.5}),
        ("MistralForCausalLM", {"attention_dropout": 0.5}),
    ],
)
def test_dropout_by_a_function_is_rejected(architecture: str, settings: dict):
    """No module of the model is a Dropout, or its Dropout is not the one that is called."""
    model = zoo_bridge(architecture, **settings)
    model.train()
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"in training mode.*model.eval\(\)"):
        tw.read_states(model, [5, 6, 7])
    assert torch.get_rng_state().equal(before)
    model.eval()
    assert tw.read_states(model, [5, 6, 7]).adds_up < 1e-5


def test_training_mode_without_dropout_is_the_same_model():
    model = zoo_bridge("LlamaForCausalLM")
    states = tw.read_states(model, [5, 6, 7])
    model.train()
    assert torch.equal(tw.read_states(model, [5, 6, 7]).stream, states.stream)


def test_noise_outside_training_mode_is_rejected():
    model = zoo_bridge("LlamaForCausalLM")
    mlp = model.original_model.model.layers[1].mlp
    mlp.register_forward_hook(lambda _module, _inputs, out: out + torch.randn_like(out))
    with pytest.raises(ValueError, match="draws random numbers when it runs"):
        tw.read_states(model, [5, 6, 7])


ROWS = [[3, 4, 5, 6, 7, 8, 3, 3], [9, 8, 7, 6, 5, 4, 3, 2]]


@pytest.mark.parametrize("positions", [(4, 8), (1, 8), (0, 8, 2)])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_cache_of_some_positions_is_rejected(architecture: str, positions: tuple[int, ...]):
    model = shared_bridge(architecture)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor(ROWS[:1]), pos_slice=positions)
    ids = ROWS[0][slice(*positions)]
    with pytest.raises(ValueError, match=r"not of these \d tokens as a whole prompt"):
        tw.read_states(model, cache, tokens=ids)


def test_a_cache_of_the_first_positions_is_one_of_a_shorter_prompt():
    """In a causal model the first positions see no others."""
    model = shared_bridge("llama")
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor(ROWS[:1]), pos_slice=(0, 5))
    states, own = (
        tw.read_states(model, x, **t)
        for x, t in ((cache, {"tokens": ROWS[0][:5]}), (ROWS[0][:5], {}))
    )
    assert torch.allclose(states.stream, own.stream, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_padded_row_of_a_cache_is_rejected(architecture: str, side: str):
    model = shared_bridge(architecture)
    ids, mask = torch.tensor(ROWS), torch.ones(2, 8, dtype=torch.long)
    padding = slice(0, 3) if side == "left" else slice(5, 8)
    ids[0, padding], mask[0, padding] = 0, 0
    with torch.no_grad():
        _, cache = model.run_with_cache(ids, attention_mask=mask)
    padded, whole = (
        {n: cache[n][row : row + 1] for n in ALL_HOOKS if n in cache} for row in (0, 1)
    )
    with pytest.raises(ValueError, match="of a padded row"):
        tw.read_states(model, padded, tokens=ids[0].tolist())
    assert tw.read_states(model, whole, tokens=ids[1].tolist()).adds_up < 1e-5


def test_a_cache_of_other_tokens_is_rejected():
    model = shared_bridge("llama")
    cache = cache_of(model, [[5, 6, 7]], ALL_HOOKS)
    with pytest.raises(ValueError, match=r"at position 1 is off by .* of other tokens"):
        tw.read_states(model, cache, tokens=[5, 8, 7])


def test_a_cache_of_a_run_changed_in_later_layers_is_the_users_own():
    model = shared_bridge("llama")
    name = "blocks.1.hook_attn_out"
    with model.hooks(fwd_hooks=[(name, lambda value, hook: 0 * value)]), torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([[5, 6, 7]]))
    states = tw.read_states(model, cache, tokens=[5, 6, 7])
    assert not states.attn_out[1].any() and states.attn_out[0].any()
