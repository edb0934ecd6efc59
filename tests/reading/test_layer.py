"""Host layers: every part is resolved once, and names of models are used in one file only."""

import ast
import re
from pathlib import Path

import pytest

import tw_lens
import tw_lens.reading
from tests.models import shared_bridge, tiny_bridge
from tests.zoo import zoo_bridge
from tw_lens.reading.layer import host_layer, host_layers

READING = Path(tw_lens.reading.__file__).parent
MODEL_NAME = re.compile(
    r"For[A-Z]\w*LM|LMHeadModel|(Bert|Roberta)Model|^Roberta$|TransformerLensNat"
)


def test_a_layer_of_a_bridge():
    model = shared_bridge("llama")
    layer = host_layer(model, 1)
    assert (layer.name, layer.attention_name) == ("blocks.1", "blocks.1.attn")
    originals = (layer.original_block, layer.original_attention)
    assert [type(module).__name__ for module in originals] == [
        "LlamaDecoderLayer",
        "LlamaAttention",
    ]
    assert layer.attention is model.blocks[1].attn and not layer.has_unhooked_attention
    assert layer.part("no_such_part", "head_dim") == 8
    assert layer.part("no_such_part") is None
    assert [each.index for each in host_layers(model)] == [0, 1, 2]


def test_settings_per_layer():
    kinds = [layer.kind for layer in host_layers(shared_bridge("qwen2-window"))]
    assert kinds == ["full_attention", "sliding_attention", "sliding_attention"]
    assert host_layer(shared_bridge("gpt2"), 0).kind is None
    assert host_layer(shared_bridge("gpt2"), 2).setting("n_head") == 4


def test_layers_without_attention():
    assert all(layer.attention is None for layer in host_layers(tiny_bridge("mamba")))


def test_errors_name_the_layer():
    error = host_layer(shared_bridge("gpt2"), 2).unsupported("has three heads")
    assert str(error).startswith("GPT2LMHeadModel: layer 2 has three heads. ")


@pytest.mark.parametrize("file", sorted(READING.glob("*.py")), ids=lambda file: file.name)
def test_models_are_named_in_one_file(file: Path):
    """Docstrings and comments may name models; decisions by name stand in `model_exceptions`."""
    tree = ast.parse(file.read_text())
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(
        node, (ast.Module, ast.ClassDef, ast.FunctionDef)
    )}  # fmt: skip
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    names = [
        value
        for value in constants
        if isinstance(value, str) and value not in docstrings and MODEL_NAME.search(value)
    ]
    assert bool(names) == (file.name == "model_exceptions.py"), names


@pytest.mark.parametrize(
    ("architecture", "own", "causal"),
    [
        ("BertForMaskedLM", {}, False),
        ("BertLMHeadModel", {"is_decoder": True}, True),
        ("BertLMHeadModel", {"is_decoder": False}, False),
        ("LlamaForCausalLM", {}, True),
    ],
)
def test_the_direction_of_attention_is_the_original_models_own(
    architecture: str, own: dict[str, bool], causal: bool
):
    """A bridge's configuration calls BERT causal in 3.9, and its decoder bidirectional in 4.3."""
    model = zoo_bridge(architecture, **own)
    assert tw_lens.read_weights(model).block(0).attention_scores.causal == causal
    assert tw_lens.check(model, list(range(3, 15))).max_rel_error < 2e-5
