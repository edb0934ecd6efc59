"""Trajectories of pre-norm, parallel, post-norm and encoder models, from transformers' own states.

Float64 and by hand for each architecture: nothing that tw_lens reads from a model is used here.
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
    """The modules and formulas of an architecture, float64."""

    final: Callable  # of the model: the final norm of the stream, None for an encoder
    embed: Callable  # of the model and ids: the tokens as they enter, without a position
    seen: Callable  # of the model and states: the input of the final norm
    gain: Callable  # of the model: that of the final norm
    logits: Callable  # of the model and states
    centred: bool = True


def bert_embed(hf, ids):
    embeddings = hf.bert.embeddings
    return embeddings.LayerNorm(
        embeddings.word_embeddings(ids) + embeddings.token_type_embeddings.weight[0]
    )


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
    "BertForMaskedLM": Kind(  # the stream itself is normalised; the readout has a head
        lambda hf: None,
        bert_embed,
        bert_seen,
        lambda hf: hf.cls.predictions.transform.LayerNorm.weight,
        lambda hf, x: hf.cls.predictions(x),
    ),
}


def residual_stream(hf, kind: Kind) -> Tensor:
    """Return the residual stream of every layer, from transformers' own run."""
    entered, module = [], kind.final(hf)
    if module is not None:
        hook = module.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    with torch.no_grad():
        hidden = hf(torch.tensor([TOKENS]), output_hidden_states=True).hidden_states
    if module is None:
        return torch.stack(hidden)[:, 0].double()
    hook.remove()
    return torch.stack([*hidden[:-1], entered[0]])[:, 0].detach().double()


def by_hand(x: Tensor, hf, kind: Kind) -> dict[str, Tensor]:
    """Return every measure of every state, one by one."""

    def project(v: Tensor) -> Tensor:
        return v - v.mean(-1, keepdim=True) if kind.centred else v

    ids = torch.tensor(TOKENS)
    y, own = project(x), project(kind.embed(hf, ids))
    spoken = project(kind.seen(hf, x))
    U = hf.get_output_embeddings().weight[ids]
    towards = project(U * kind.gain(hf))
    layers, n, last = len(x), len(ids), len(ids) - 1
    measures = {name: torch.full((layers, n), torch.nan) for name in TRAJECTORY_MEASURES}
    for p in range(n):
        length = 0.0
        for layer in range(layers):
            here, state = y[layer, p], (layer, p)
            measures["norm"][state] = x[layer, p].square().sum().sqrt()
            measures["arc_length"][state] = length
            measures["chord"][state] = arccos_angle(y[0, p], here)
            if layer:
                measures["tortuosity"][state] = length / float(measures["chord"][state])
            measures["angle_to_embedding"][state] = arccos_angle(here, own[p])
            if p < last:
                measures["angle_to_next"][state] = arccos_angle(here, y[layer, p + 1])
                measures["angle_to_last"][state] = arccos_angle(here, y[layer, last])
                to = arccos_angle(spoken[layer, p], towards[p + 1])
                measures["angle_to_next_readout"][state] = to
            if layer == layers - 1:
                continue
            there, step = y[layer + 1, p], x[layer + 1, p] - x[layer, p]
            length += arccos_angle(here, there)
            measures["step_angle"][state] = arccos_angle(here, there)
            cosine = float(step @ x[layer, p] / step.norm() / x[layer, p].norm())
            measures["radial_share"][state] = cosine**2
            measures["tangential_share"][state] = 1 - cosine**2
            if layer:
                measures["turning_angle"][state] = turning_angle(y[layer - 1, p], here, there)
    return measures


@pytest.mark.parametrize("architecture", KINDS)
def test_every_measure(architecture: str):
    model, hf, kind = zoo_bridge(architecture), tiny(architecture), KINDS[architecture]
    x = residual_stream(hf, kind)
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
