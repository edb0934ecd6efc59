"""Unsupported parts are rejected with an error that names the part."""

import pytest
import torch

import tw_lens as tw
from tests.architectures.support import EXACT
from tests.zoo import zoo_bridge

UNSUPPORTED = {
    "no attention": ("MambaForCausalLM", {}, "no layer has attention"),
    "attention without hooks": ("Zamba2ForCausalLM", {}, "no layer has attention with hooks"),
    "several streams": ("DeepseekV4ForCausalLM", {"hc_mult": 2}, "2 residual streams"),
    "loops": (
        "HrmTextForCausalLM", {"H_cycles": 3, "L_cycles": 2}, "L_blocks 6 times and H_blocks 3",
    ),
    "pictures": ("ViTModel", {}, "it has no W_E"),
    "sound": ("HubertModel", {}, "there are no words to read"),
    "clipped queries": ("OlmoForCausalLM", {"clip_qkv": 1.0}, "clips its queries"),
    "shared keys": ("Gemma4ForCausalLM", {"num_kv_shared_layers": 1}, "of an earlier layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_rejected_by_the_name_of_the_part(name: str):
    architecture, own, part = UNSUPPORTED[name]
    model = zoo_bridge(architecture, **own)
    with pytest.raises(tw.UnsupportedModelError) as caught:
        tw.check(model, [5, 6, 7])
    sentence = str(caught.value)
    assert part in sentence and architecture in sentence and caught.value.remedy in sentence
    assert caught.value.remedy.endswith(".")


def test_a_part_that_mixes_streams_is_rejected_by_its_name():
    """Gemma 3n needs timm to boot, so its part is set beside another model's blocks."""
    model = zoo_bridge("LlamaForCausalLM")
    model.blocks[1].altup = torch.nn.Identity()
    model.original_model.config.altup_num_inputs = 4
    with pytest.raises(tw.UnsupportedModelError, match=r"4 residual streams .* \(AltUp\)"):
        tw.read_weights(model)


def test_prompts_that_need_an_indexer_are_rejected():
    model = zoo_bridge("GlmMoeDsaForCausalLM", index_topk=16)
    weights = tw.read_weights(model)
    limit = weights.block(weights.attention_layers[0]).attention_scores.dense_up_to
    assert tw.check(model, list(range(3, 3 + limit))).max_rel_error < EXACT
    with pytest.raises(ValueError, match=f"beyond {limit} this model"):
        tw.check(model, list(range(3, 4 + limit)))
