"""Neurons: tables and probes against dense float64, parts of steps against the model's hooks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge
from tests.planted import by_hand
from tests.zoo import zoo_bridge
from tw_lens.canonical import MLP

PROMPT = [5, 6, 7, 8, 900]


def dense(model) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens' points and readout directions in float64, by hand."""
    weights = tw.read_weights(model)
    mlp = weights.mlp(1)
    E = torch.cat(list(weights.vocabulary.rows())).double()
    E = E - E.mean(-1, keepdim=True) if mlp.norm.centred else E
    points = E / (E.square().mean(-1, keepdim=True) + mlp.norm.eps).sqrt()
    norm = weights.readout.norm
    U = weights.readout.W_U.detach().double() * norm.gain[:, None].double()
    U = U - U.mean(0) if norm.centred else U
    return points, U - U.mean(1, keepdim=True)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_table_against_dense_float64(kind: str):
    model = shared_bridge(kind)
    weights = tw.read_weights(model)
    points, U = dense(model)
    mlp = weights.mlp(1)
    table = tw.neuron_table(weights, layer=1, neurons=[3, 50, 7], k=4)
    for i, n in enumerate(table.neurons):
        gain, bias = mlp.norm.gain.double(), mlp.norm.bias.double()
        read = mlp.W_in[:, n].double() * gain
        read = read - read.mean() if mlp.norm.centred else read
        logits = mlp.W_out[n].double() @ U
        sign = 1.0
        if mlp.W_gate is not None:
            sign = 1.0 if logits.max() >= -logits.min() else -1.0
            gate = points @ (mlp.W_gate[:, n].double() * gain)
            assert table.gate.token_index[i].tolist() == gate.topk(4).indices.tolist()
            assert table.gate.score[i].double().allclose(gate.topk(4).values, atol=1e-4)
        constant = float(bias @ mlp.W_in[:, n].double()) + float(mlp.b_in[n])
        inputs = sign * (points @ read + constant)
        assert float(table.sign[i]) == sign
        assert table.reads.token_index[i].tolist() == inputs.topk(4).indices.tolist()
        assert table.reads.score[i].double().allclose(inputs.topk(4).values, atol=1e-4)
        written = (sign * logits).topk(4)
        assert table.writes.token_index[i].tolist() == written.indices.tolist()
        assert table.writes.score[i].double().allclose(written.values, atol=1e-4)
        z = sign * (logits - logits.mean()) / logits.std(correction=0)
        expected = [logits.std(correction=0), z.pow(3).mean(), z.pow(4).mean() - 3]
        assert table.moments[:, i].tolist() == pytest.approx([float(e) for e in expected], abs=1e-3)
        cosine = torch.nn.functional.cosine_similarity(read, mlp.A_out[n].double(), dim=0)
        assert float(table.cosine_in_out[i]) == pytest.approx(float(cosine), abs=1e-5)
    frame = table.to_dataframe()
    assert frame.neuron.tolist() == [3, 50, 7] and ("gate_tokens" in frame) == (kind == "llama")
    assert frame.in_exceeds_null.isin(["", "isotropic", "vocabulary"]).all()


def flipped(mlp: MLP) -> MLP:
    """Return the same MLP with the signs of half of its neurons' inputs and outputs changed."""
    sign = torch.where(torch.arange(mlp.d_mlp) % 2 == 0, -1.0, 1.0)
    return replace(mlp, W_in=mlp.W_in * sign, b_in=mlp.b_in * sign, W_out=mlp.W_out * sign[:, None])


def test_the_sign_identity_of_gated_neurons_changes_no_result():
    model = shared_bridge("llama")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    other = replace(weights, read_mlp=lambda layer: flipped(weights.mlp(layer)))
    tables = [tw.neuron_table(w, layer=1).to_dataframe() for w in (weights, other)]
    columns = [c for c in tables[0] if c not in ("cosine_gate_out", "cosine_in_out")]
    assert tables[0][columns].equals(tables[1][columns])
    own, their = (t.cosine_in_out.to_numpy() for t in tables)
    assert own == pytest.approx(their)
    probes = [tw.neuron_probe(w, layer=1, words=[5, 9]) for w in (weights, other)]
    assert torch.equal(probes[0].neuron, probes[1].neuron)
    assert torch.equal(probes[0].lists.token_index, probes[1].lists.token_index)
    steps = [tw.trajectory_attribution(w, states, neurons=3).neurons for w in (weights, other)]
    assert torch.equal(steps[0].neuron, steps[1].neuron)
    assert torch.allclose(steps[0].share, steps[1].share, atol=1e-6)


def with_mlp(seed: int, *, planted: bool) -> tw.Weights:
    """Return a layer with two clusters of tokens; neuron 5 reads one and writes the other."""
    d, n, g = 64, 200, torch.Generator().manual_seed(seed)
    W_E = torch.randn(2000, d, generator=g)
    clusters = torch.randn(2, d, generator=g)
    W_E[20:25] += 2 * clusters[0]
    W_E[40:45] += 2 * clusters[1]
    W = [0.1 * torch.randn(1, d, 8, generator=g) for _ in range(3)]
    weights = by_hand(W_E, *W, 0.1 * torch.randn(1, 8, d, generator=g))
    W_in, W_out = torch.randn(d, n, generator=g) / 8, torch.randn(n, d, generator=g) / 8
    if planted:
        W_in[:, 5], W_out[5] = clusters[0], clusters[1]
    mlp = MLP(
        layer=0, norm=weights.block(0).norm, W_in=W_in, W_out=W_out, b_in=torch.zeros(n),
        b_out=torch.zeros(d), activation=torch.relu,
    )  # fmt: skip
    return replace(weights, read_mlp=lambda layer: mlp)


def test_planted_neurons_are_found():
    weights = with_mlp(0, planted=True)
    table = tw.neuron_table(weights, layer=0)
    assert set(table.reads.token_index[5].tolist()) == set(range(20, 25))
    assert set(table.writes.token_index[5].tolist()) == set(range(40, 45))
    for lists in (table.reads, table.writes):
        assert float(lists.null.p[5, 1]) <= 0.05
    probe = tw.neuron_probe(weights, layer=0, words=[22], n=1)
    assert probe.neuron.tolist() == [[5]] and float(probe.share) > 0.3
    assert set(probe.lists.token_index[0].tolist()) == set(range(40, 45))


def test_random_neurons_exceed_the_nulls_in_one_list_of_twenty():
    found = [
        side.null.p[:, null]
        for seed in range(5)
        for side in tw.neuron_table(with_mlp(seed, planted=False), layer=0).sides.values()
        for null in (0, 1)
    ]
    share = float((torch.cat(found) <= 0.05).float().mean())
    assert share <= 0.05 + 0.02


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma"])
def test_neurons_sum_to_the_mlps_share_and_are_the_models_own(kind: str):
    """`hook_post` times `W_out`, projected on the step in float64, by hand."""
    model = shared_bridge(kind)
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    result = tw.trajectory_attribution(weights, states, neurons=4)
    found, component = result.neurons, result.components.index("MLP")
    whole = found.share.sum(1) + found.rest + found.bias
    assert torch.allclose(whole, result.share[:, component], atol=1e-5)
    name = "blocks.2.mlp.hook_post"
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([PROMPT]))
    post = cache[name][0].double()
    W_out = model.blocks[2].mlp.W_out.detach().double()
    for p in (1, 4):
        x, after = (states.stream[i, p].double() for i in (2, 3))
        step = after - x
        parts = post[p][:, None] * W_out
        if weights.readout.norm.centred:
            x, step = x - x.mean(), step - step.mean()
        t = step - (step @ x) / (x @ x) * x
        shares = parts @ (t - t.mean() if weights.readout.norm.centred else t) / (t @ t)
        best = shares.abs().topk(4).indices
        assert found.neuron[2, :, p].tolist() == best.tolist()
        assert found.share[2, :, p].double().allclose(shares[best], atol=1e-4)
        assert found.activation[2, :, p].double().allclose(post[p][best], atol=1e-4)
    table = found.to_dataframe()
    rows = table[(table.layer == 2) & (table.position == 4)]
    assert rows.share.sum() == pytest.approx(float(result.share[2, component, 4]), abs=1e-5)
    assert len(found.plot(1).data) == 1 and f"L2N{int(best[0])}" in set(table.component)


@pytest.mark.parametrize(
    "architecture",
    ["Gemma2ForCausalLM", "GraniteForCausalLM", "BertForMaskedLM", "BitNetForCausalLM",
     "MixtralForCausalLM", "Qwen2MoeForCausalLM", "Glm4ForCausalLM"],
)  # fmt: skip
def test_neurons_behind_norms_multipliers_and_routing_sum_to_the_share(architecture: str):
    model = zoo_bridge(architecture)
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT[:4])
    result = tw.trajectory_attribution(weights, states, neurons=2)
    found = result.neurons
    whole = found.share.sum(1) + found.rest + found.bias
    own = result.share[:, result.components.index("MLP")]
    assert torch.allclose(whole, own, atol=1e-5 * float(own.abs().max())) and found.error < 1e-5


def test_a_probe_at_a_state_is_the_models_own_activation():
    """The vocabulary holds states of the stream; here the MLP of a parallel block reads them."""
    model = shared_bridge("neox")
    weights = tw.read_weights(model)
    mlp = weights.mlp(0)
    probe = tw.neuron_probe(weights, layer=0, words=[5, 6], n=mlp.d_mlp)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([[5, 6]]))
    post = cache["blocks.0.mlp.hook_post"][0]
    for w in range(2):
        own = torch.zeros(mlp.d_mlp).scatter(0, probe.neuron[w], probe.activation[w])
        assert torch.allclose(own, post[w], atol=1e-4)
    assert probe.share.sum(1).tolist() == pytest.approx([1, 1])
    assert len(probe.to_dataframe()) == 2 * mlp.d_mlp


def test_mean_shares_are_over_all_neurons_and_positions():
    model = shared_bridge("gpt2")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    every = tw.trajectory_attribution(weights, states, neurons=1000).neurons
    table = every.to_dataframe()
    assert (table.neuron.dropna() >= 0).all()
    later = table[table.position > 0].dropna(subset=["neuron"])
    means = later.groupby(["layer", "neuron"]).share.mean()
    order = means.abs().sort_values(ascending=False)
    few = tw.trajectory_attribution(weights, states, neurons=2).neurons
    assert len(few.largest) == 50
    for (layer, neuron), found in zip(order.index[:50], few.largest, strict=True):
        assert (found.layer, found.neuron) == (layer, neuron)
        assert found.share == pytest.approx(means[layer, neuron], abs=1e-6)


def test_written_norms_behind_a_norm_of_the_output_are_what_is_added():
    model = zoo_bridge("Gemma2ForCausalLM")
    weights = tw.read_weights(model)
    mlp = weights.mlp(1)
    probe = tw.neuron_probe(weights, layer=1, words=[5, 9], n=3)
    y = mlp.norm.sphere(weights.vocabulary.embeddings(torch.tensor([5, 9])))
    f = mlp.activations(mlp.pre_activations_of_points(y), y)
    linear = mlp.post_norm.linear_at(f @ mlp.W_out + mlp.b_out)
    for w in range(2):
        for rank, n in enumerate(probe.neuron[w].tolist()):
            added = linear(f[:, n, None] * mlp.W_out[n])[w] * mlp.multiplier
            assert float(probe.written[w, rank]) == pytest.approx(float(added.norm()), rel=1e-4)
    assert "norm of the MLP's output" in {caveat.name for caveat in probe.caveats}


def test_parts_and_directions_are_read_without_constants():
    weights = tw.read_weights(shared_bridge("gpt2"))
    vectors = torch.stack([torch.zeros(weights.d_model), torch.randn(weights.d_model)])
    points = tw.Points(vectors, ["zero", "x"], "direction")
    table = tw.neuron_table(weights, layer=1, k=2, points=points)
    zero = table.reads.token_index == 0
    assert table.reads.score[zero].abs().max() == 0
    with pytest.raises(ValueError, match="kind 'direction'; neuron_table reads neurons by them"):
        tw.neuron_probe(weights, layer=1, words=["x"], points=points)


def test_the_smallest_neurons_have_the_cosines_and_moments_of_any_other():
    weights = with_mlp(0, planted=True)
    mlp = weights.mlp(0)
    small = replace(mlp, W_in=mlp.W_in * 1e-12, W_out=mlp.W_out * 1e-12)
    own, scaled = (
        tw.neuron_table(replace(weights, read_mlp=lambda layer, m=m: m), layer=0)
        for m in (mlp, small)
    )
    assert torch.allclose(own.cosine_in_out, scaled.cosine_in_out, atol=1e-4)
    assert torch.allclose(own.moments[1:], scaled.moments[1:], atol=1e-3)
    none = replace(mlp, W_out=torch.zeros_like(mlp.W_out))
    table = tw.neuron_table(replace(weights, read_mlp=lambda layer: none), layer=0)
    assert not table.cosine_in_out.any() and table.moments[1:].isnan().all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda w: tw.neuron_table(w, layer=9), IndexError, "layer 9 does not exist"),
        (lambda w: tw.neuron_table(w, layer=0, neurons=[500]), IndexError, "neuron 500 does not"),
        (lambda w: tw.neuron_table(w, layer=0, neurons=[]), ValueError, "neurons is empty"),
        (lambda w: tw.neuron_table(w, layer=0, neurons="a"), TypeError, "neurons"),
        (lambda w: tw.neuron_probe(w, layer=0, words=["no such word"]), ValueError, "single token"),
        (lambda w: tw.neuron_probe(w, layer=0, words=[5], n=0), ValueError, "n must be at least"),
    ],
)
def test_bad_input(call, error: type, message: str):
    with pytest.raises(error, match=message):
        call(tw.read_weights(shared_bridge("gpt2")))


def test_a_copy_of_weights_says_that_it_holds_no_mlp():
    import copy

    weights = copy.deepcopy(tw.read_weights(shared_bridge("gpt2")))
    with pytest.raises(ValueError, match=r"hold no MLP \(a copy does not\); read them from"):
        tw.neuron_table(weights, layer=0)
