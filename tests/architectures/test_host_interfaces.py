"""What tw_lens uses of its hosts beyond their public interfaces, and what breaks without it.

Everything else is read by public attributes or by running. After an upgrade a failure here names
the attribute that moved and what depends on it.
"""

import ast
import re
import sys
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch

import tw_lens as tw
from tests.zoo import tiny, zoo_bridge
from tw_lens.reading.layer import host_layers
from tw_lens.reading.positions import QUARTER_TURNS, read_rotary

ROOT = Path(tw.__file__).parent
PRIVATE = {
    "_forward_hooks": "torch: hooks that run after a module",
    "_forward_pre_hooks": "torch: hooks that run before a module",
    "_hf_hook": "accelerate: the hook that loads a module's offloaded weights",
    "_old_forward": "accelerate: a module's forward without that hook",
    "_original_component": "TransformerLens: the name of a wrapped module",
    "_is_nope_layer": "TransformerLens: layers without rotation of Cohere 2 and EXAONE 4",
    "_original_block_forward": "TransformerLens: a T5 block's forward pass before it is patched",
    "_{...}": "TransformerLens 3.9: key/value weights before they are repeated (tests/hooked)",
}
TOKENS = list(range(3, 15))
OWN = {"_asdict", "_fields", "_replace", "_version"}  # NamedTuple's public methods, and our version


def private_names(source: str) -> set[str]:
    """Return the private names of other objects in a file: as attributes, and as strings."""
    names, tree = set(), ast.parse(source)
    of_text = {
        id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            names.add(node.attr)
        elif isinstance(node, ast.Constant) and id(node) not in of_text:
            names.add(str(node.value))
        elif isinstance(node, ast.JoinedStr) and ast.unparse(node).startswith(("f'_{", 'f"_{')):
            names.add("_{...}")
    return {name for name in names if re.fullmatch(r"_[A-Za-z]\w*|_\{\.\.\.\}", name)} - OWN


def test_the_private_attributes_are_these():
    found = set().union(*(private_names(file.read_text()) for file in ROOT.rglob("*.py")))
    assert found == set(PRIVATE)


def test_accelerate_keeps_its_hook_on_the_module():
    linear: Any = torch.nn.Linear(2, 2)
    accelerate.cpu_offload(linear, torch.device("cpu"))
    hook = vars(linear).get("_hf_hook")
    assert hook is not None, "offloaded weights are no longer found: reading/offloaded.py"
    assert callable(vars(linear).get("_old_forward")), "reading/linear_maps.py"
    for name in ("pre_forward", "post_forward"):
        assert hasattr(hook, name), f"accelerate's hook has lost {name}: reading/offloaded.py"
    for name in ("offload", "place_submodules", "execution_device"):
        assert any(hasattr(each, name) for each in getattr(hook, "hooks", (hook,))), (
            f"accelerate's hook has lost {name}: reading/offloaded.py"
        )


def test_torch_keeps_its_hooks_on_the_module():
    linear = torch.nn.Linear(2, 2)
    linear.register_forward_hook(lambda *_: None)
    linear.register_forward_pre_hook(lambda *_: None)
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        assert len(vars(linear)[name]) == 1, "reading/linear_maps.py, reading/user_hooks.py"


def test_transformer_lens_names_wrapped_modules():
    names = " ".join(dict(zoo_bridge("LlamaForCausalLM").blocks[0].attn.named_modules()))
    assert "q_proj._original_component" in names, "names in messages: reading/linear_maps.py"


@pytest.mark.parametrize("architecture", ["Cohere2ForCausalLM", "Exaone4ForCausalLM"])
def test_transformer_lens_tells_which_layers_do_not_rotate(architecture: str):
    layers = host_layers(zoo_bridge(architecture))
    for layer in layers:
        assert callable(getattr(layer.attention, "_is_nope_layer", None)), (
            "layers without rotation are no longer found: reading/positions.py, _rotates"
        )
    assert {read_rotary(layer) is None for layer in layers} == {True, False}


@pytest.mark.parametrize(
    ("architecture", "turned"),
    [
        ("NanoChatForCausalLM", [0.0, 0.0, -1.0, 0.0]),
        ("GPTJForCausalLM", [0.0, 1.0, 0.0, 0.0]),
        ("AfmoeForCausalLM", [0.0, 0.0, 1.0, 0.0]),
    ],
)
def test_a_model_that_rotates_by_itself_has_a_function_for_a_quarter_turn(
    architecture: str, turned: list[float]
):
    """The function beside the attention class is not documented; it tells pairs and direction."""
    attention = next(m for m in tiny(architecture).modules() if type(m).__name__.endswith("ention"))
    source = sys.modules[type(attention).__module__]
    functions = [getattr(source, name) for name in QUARTER_TURNS if hasattr(source, name)]
    assert functions, "pairs and direction are no longer found: reading/positions.py, _turning"
    assert functions[0](torch.eye(4)[:1].reshape(1, 1, 1, 4)).flatten().tolist() == turned


class SinesFirst(torch.nn.Module):
    """GPT-J's tables as transformers 5.24 computes them."""

    def __init__(self, positions: torch.Tensor):
        super().__init__()
        self.positions = positions

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        return self.positions[position_ids].chunk(2, dim=-1)


def test_cosines_and_sines_are_told_apart_by_their_values():
    model = zoo_bridge("GPTJForCausalLM")
    layer = host_layers(model)[0]
    expected = read_rotary(layer)
    cos, sin = expected.tables(9)
    if hasattr(layer.original_attention, "embed_positions"):  # before transformers 5.24
        for each in host_layers(model):
            del each.original_attention.embed_positions
        model.original_model.transformer.rotary_emb = SinesFirst(torch.cat([sin, cos], -1))
    again = read_rotary(layer)
    assert torch.equal(again.tables(9)[0], cos) and torch.equal(again.tables(9)[1], sin)
    assert torch.equal(cos[0], torch.ones_like(cos[0])) and not sin[0].any()
    assert again.interleaved and expected.interleaved


@pytest.mark.parametrize("architecture", ["CodeGenForCausalLM", "GPTJForCausalLM"])
def test_weights_are_those_of_the_original_model_run_without_transformer_lens(architecture: str):
    """Holds where TransformerLens cannot run the model too (CodeGen with transformers 5.24)."""
    with torch.no_grad():
        out = tiny(architecture)(
            torch.tensor([TOKENS]), output_attentions=True, output_hidden_states=True
        )
    weights = tw.read_weights(zoo_bridge(architecture))
    for layer, pattern in enumerate(out.attentions):
        ours = weights.block(layer).attention_pattern(out.hidden_states[layer][0])
        assert float((ours - pattern[0]).abs().max()) < 1e-5


@pytest.mark.parametrize("kind", [AttributeError, TypeError, KeyError, NotImplementedError])
def test_a_model_that_does_not_run_with_these_releases_is_named(kind: type[Exception]):
    model = zoo_bridge("LlamaForCausalLM")

    def misfit(*_args: Any, **_options: Any) -> Any:
        raise kind("embed_positions")

    model.original_model.lm_head.forward = misfit
    with pytest.raises(
        tw.UnsupportedModelError,
        match=rf"does not run with transformer-lens \S+, transformers \S+ \({kind.__name__}: ",
    ) as caught:
        tw.check(model, TOKENS)
    assert isinstance(caught.value.__cause__, kind)
    with pytest.raises(tw.UnsupportedModelError, match="does not run with"):
        tw.read_states(model, TOKENS)
    assert len(tw.embedding_distances(tw.read_weights(model)).settings) == 4


def test_a_logit_scale_is_the_models_own_before_its_configurations():
    """Folding Cohere's scale into the unembedding changes the model's own, not the configured."""
    model = zoo_bridge("CohereForCausalLM")
    assert model.original_model.logit_scale == model.original_model.config.logit_scale != 1.0
    model.original_model.logit_scale *= 2
    certificate = tw.check(model, TOKENS)
    assert certificate.max_rel_error < 2e-5
