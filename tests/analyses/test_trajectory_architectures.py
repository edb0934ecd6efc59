"""The path of pre-norm, parallel, post-norm and encoder models, from transformers' hidden states.

Float64 and by hand for each architecture: what tw_lens reads from a model is not used here.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import tw_lens as tw
from tests.oracles import arccos_angle, turning_angle
from tests.zoo import tiny, zoo_bridge
from tw_lens.analyses.trajectory_measures import TRAJECTORY_MEASURES

TOKENS = [5, 6, 7, 6, 40, 9]


class Kind(NamedTuple):
    """What an architecture's parameters mean, float64."""

    final: Callable  # of the model: the module the stream enters at its end, None for an encoder
    embed: Callable  # of the model and ids: the tokens as they enter, without a position
    seen: Callable  # of the model and states: what the final norm sees of them
    gain: Callable  # of the model: that of the final norm
    logits: Callable  # of the model and states
    centred: bool = True


def bert_entering(hf, ids):
    held = hf.bert.embeddings
    return held.LayerNorm(held.word_embeddings(ids) + held.token_type_embeddings.weight[0])


def bert_seen(hf, x):
    transform = hf.cls.predictions.transform
    return transform.transform_act_fn(transform.dense(x))


def same(_hf, x):
    return x


KINDS = {
    "GPT2LMHeadModel": Kind(
        lambda hf: hf.transformer.ln_f,
        lambda hf, ids: hf.transformer.wte(ids),
        same,
        lambda hf: hf.transformer.ln_f.weight,
        lambda hf, x: hf.lm_head(hf.transformer.ln_f(x)),
    ),
    "GPTNeoXForCausalLM": Kind(  # parallel blocks
        lambda hf: hf.gpt_neox.final_layer_norm,
        lambda hf, ids: hf.gpt_neox.embed_in(ids),
        same,
        lambda hf: hf.gpt_neox.final_layer_norm.weight,
        lambda hf, x: hf.get_output_embeddings()(hf.gpt_neox.final_layer_norm(x)),
    ),
    "Olmo2ForCausalLM": Kind(  # norms after attention and MLP, none before
        lambda hf: hf.model.norm,
        lambda hf, ids: hf.model.embed_tokens(ids),
        same,
        lambda hf: hf.model.norm.weight,
        lambda hf, x: hf.lm_head(hf.model.norm(x)),
        centred=False,
    ),
    "Gemma2ForCausalLM": Kind(  # norms before and after; an offset gain; a scaled embedding
        lambda hf: hf.model.norm,
        lambda hf, ids: hf.model.embed_tokens.weight[ids] * hf.config.hidden_size**0.5,
        same,
        lambda hf: 1 + hf.model.norm.weight,
        lambda hf, x: hf.lm_head(hf.model.norm(x)),
        centred=False,
    ),
    "BertForMaskedLM": Kind(  # the stream itself is normalised; read behind a head
        lambda hf: None,
        bert_entering,
        bert_seen,
        lambda hf: hf.cls.predictions.transform.LayerNorm.weight,
        lambda hf, x: hf.cls.predictions(x),
    ),
}


def streamed(hf, kind: Kind) -> Tensor:
    """The stream of every layer, from transformers' own run."""
    entered, module = [], kind.final(hf)
    if module is not None:
        hook = module.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    with torch.no_grad():
        hidden = hf(torch.tensor([TOKENS]), output_hidden_states=True).hidden_states
    if module is None:
        return torch.stack(hidden)[:, 0].double()
    hook.remove()
    return torch.stack([*hidden[:-1], entered[0]])[:, 0].detach().double()


def by_hand(x: Tensor, hf, kind: Kind) -> dict[str, Tensor]:
    """Every measure of every state, one by one."""

    def project(v: Tensor) -> Tensor:
        return v - v.mean(-1, keepdim=True) if kind.centred else v

    ids = torch.tensor(TOKENS)
    y, own = project(x), project(kind.embed(hf, ids))
    spoken = project(kind.seen(hf, x))
    U = hf.get_output_embeddings().weight[ids]
    towards = project(U * kind.gain(hf))
    layers, n, last = len(x), len(ids), len(ids) - 1
    found = {name: torch.full((layers, n), torch.nan) for name in TRAJECTORY_MEASURES}
    for p in range(n):
        walked = 0.0
        for layer in range(layers):
            here, at = y[layer, p], (layer, p)
            found["norm"][at] = x[layer, p].square().sum().sqrt()
            found["arc_length"][at] = walked
            found["chord"][at] = arccos_angle(y[0, p], here)
            if layer:
                found["tortuosity"][at] = walked / float(found["chord"][at])
            found["angle_to_embedding"][at] = arccos_angle(here, own[p])
            if p < last:
                found["angle_to_next"][at] = arccos_angle(here, y[layer, p + 1])
                found["angle_to_last"][at] = arccos_angle(here, y[layer, last])
                to = arccos_angle(spoken[layer, p], towards[p + 1])
                found["angle_to_next_readout"][at] = to
            if layer == layers - 1:
                continue
            there, step = y[layer + 1, p], x[layer + 1, p] - x[layer, p]
            walked += arccos_angle(here, there)
            found["step_angle"][at] = arccos_angle(here, there)
            cosine = float(step @ x[layer, p] / step.norm() / x[layer, p].norm())
            found["radial_share"][at] = cosine**2
            found["tangential_share"][at] = 1 - cosine**2
            if layer:
                found["turning_angle"][at] = turning_angle(y[layer - 1, p], here, there)
    return found


@pytest.mark.parametrize("architecture", KINDS)
def test_every_measure(architecture: str):
    model, hf, kind = zoo_bridge(architecture), tiny(architecture), KINDS[architecture]
    x = streamed(hf, kind)
    hf = hf.double()
    path = tw.trajectory(tw.read_weights(model), tw.read_states(model, TOKENS))
    with torch.no_grad():
        expected, logits = by_hand(x, hf, kind), kind.logits(hf, x[:, None])[:, 0]
    assert len(x) == len(path.labels) > 2 and set(expected) == set(path.values)
    for name, theirs in expected.items():
        ours = path.values[name]
        assert torch.equal(ours.isnan(), theirs.isnan()), name
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4, equal_nan=True), name
    predicted = logits[-1].argmax(-1)
    above = (logits > logits.gather(-1, predicted.expand(len(x), -1)[..., None])).sum(-1)
    assert torch.equal(path.final_rank, above)
