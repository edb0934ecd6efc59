"""Direction examples, against float64 loops over transformers' own hidden states."""

import math
import sys
from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge, shared_bridge, tiny_hf
from tests.oracles import raw_model, signed_pair
from tw_lens.canonical import score_contribution
from tw_lens.studies.top_activations import Activation, TopActivations, local_maxima

LAYER, HEAD, DIRECTION, K, CONTEXT = 1, 3, 1, 6, 2
GENERATOR = torch.Generator().manual_seed(3)
PROMPTS = [
    torch.randint(5, 40, (length,), generator=GENERATOR).tolist()
    for length in (9, 4, 0, 12, 7, 1, 4, 15, 2, 9, 11)
]
SIDES = ("left", "right")


def turned(row, position: int, theta: float):
    """Rotate a query or key of the Llama family to its position, pair by pair."""
    half, out = len(row) // 2, row.clone()
    for i in range(half):
        angle = position * theta ** (-i / half)
        a, b = float(row[i]), float(row[i + half])
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


class Slow:
    """The oracle: loops in float64, without tw_lens."""

    def __init__(self, hf, circuit: str) -> None:
        raw = raw_model(hf)
        L = raw.layers[LAYER]
        self.points = L.norm.N(raw.embed())
        A_Q, A_K = L.norm.fold(L.W_Q[HEAD]), L.norm.fold(L.W_K[HEAD])
        rope = getattr(hf.config, "rope_parameters", None)
        theta = rope["rope_theta"] if rope else None
        scale = 1 / math.sqrt(raw.d_head)
        written = raw.directions_of_readout().T
        if circuit == "QK":
            u, v, S = signed_pair(raw.W_QK(LAYER, HEAD), DIRECTION, self.points)
            self.words = [self.points @ u, self.points @ v]
        else:
            relative = written - written.mean(0)
            u, v, S = signed_pair(raw.W_OV(LAYER, HEAD), DIRECTION, relative)
            self.words = [self.points @ u, written @ v]
        self.S, self.places = S, []
        for number, prompt in enumerate(PROMPTS):
            if len(prompt) < 2:
                continue
            with torch.no_grad():
                out = hf(torch.tensor([prompt]), output_hidden_states=True, output_attentions=True)
            y = L.norm.N(out.hidden_states[LAYER][0].double())
            pattern = out.attentions[LAYER][0, HEAD].double()
            n = len(prompt)
            read = [float(y[i] @ u) for i in range(n)]
            if circuit == "QK":
                along = [read, [float(y[i] @ v) for i in range(n)]]
            else:
                wrote = [sum(float(pattern[i, j]) * S * read[j] for j in range(1, i + 1))
                         for i in range(n)]  # fmt: skip
                along = [read, wrote]

            def meet(q, k, i, j):
                if theta is not None:
                    q, k = turned(q, i, theta), turned(k, j, theta)
                return scale * float(q @ k)

            for side in (0, 1):
                for at in range(1, n):
                    near = range(max(1, at - CONTEXT), min(n, at + CONTEXT + 1))
                    if along[side][at] <= 0 or any(along[side][o] > along[side][at] for o in near):
                        continue
                    asks = (side == 0) == (circuit == "QK")
                    candidates = []
                    for other in range(1, at + 1) if asks else range(at, n):
                        i, j = (at, other) if asks else (other, at)
                        if circuit == "OV":
                            gained = float(pattern[i, j]) * S * read[j]
                        elif side == 0:
                            gained = meet(read[i] * u @ A_Q, y[j] @ A_K, i, j)
                        else:
                            gained = meet(y[i] @ A_Q, along[1][j] * v @ A_K, i, j)
                        candidates.append((gained, other, float(pattern[i, j])))
                    gained, other, attention = max(candidates)
                    self.places.append({
                        "side": side, "prompt": number, "position": at,
                        "projection": along[side][at],
                        "cosine": along[side][at] / float(y[at].norm()),
                        "pair": tuple(prompt[at - 1 : at + 1]),
                        "partner": other, "counterpart_projection": along[1 - side][other],
                        "contribution": gained, "attention": attention,
                        "description": (prompt[at] if (circuit, side) != ("OV", 1)
                                 else prompt[at + 1] if at + 1 < n else None),
                    })  # fmt: skip

    def highest(self, side: int) -> list[dict]:
        """Select greedily from the top: one per token pair, two per token."""
        selected = []
        for place in sorted(self.places, key=lambda p: -p["projection"]):
            tokens = [p["pair"][1] for p in selected]
            fits = place["pair"] not in [p["pair"] for p in selected]
            if place["side"] == side and fits and tokens.count(place["pair"][1]) < 2:
                selected.append(place)
        return selected[:K]


def examples(model, circuit: str, **options):
    options = {"layer": LAYER, "head": HEAD, "direction": DIRECTION, "n_examples": K, **options}
    return tw.direction_examples(model, PROMPTS, circuit=circuit, context=CONTEXT, **options)


@pytest.mark.parametrize("circuit", ["QK", "OV"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_examples_counterparts_and_ranks_by_hand(architecture: str, circuit: str):
    model = shared_bridge(architecture)
    result, slow = examples(model, circuit), Slow(tiny_hf(architecture), circuit)
    assert result.singular_value == pytest.approx(slow.S, rel=1e-4)
    for side, name in enumerate(SIDES):
        expected, places = slow.highest(side), result.of_side(name)
        assert len(places) == len(expected) == K
        for example, place in zip(places, expected, strict=True):
            assert (example.prompt, example.position) == (place["prompt"], place["position"])
            assert (example.token_index, example.counterpart_position) == (
                place["pair"][1],
                place["partner"],
            )
            for quantity in ("projection", "contribution", "attention", "counterpart_projection"):
                got = getattr(example, quantity)
                assert got == pytest.approx(place[quantity], rel=1e-3, abs=1e-4), quantity
            if (circuit, side) == ("OV", 1):
                assert math.isnan(example.cosine)
            else:
                assert example.cosine == pytest.approx(place["cosine"], rel=1e-3)
            scores = slow.words[side]
            if place["description"] is None:
                assert math.isnan(example.token_rank)
            else:
                assert (
                    abs(example.token_rank - int((scores > scores[place["description"]]).sum()))
                    <= 1
                )
            middle = len(example.before)
            assert (
                example.values[middle]
                == example.projection
                == max(example.values[-len(example.after) - 1 - middle :])
            )
            prompt, at = PROMPTS[example.prompt], example.position
            around = [*example.before, example.token_string, *example.after]
            assert around == [f"w{i}" for i in prompt[max(0, at - CONTEXT) : at + CONTEXT + 1]]


@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_tokens_and_signs_are_those_of_the_spectrum(circuit: str):
    model = shared_bridge("llama")
    spectrum = tw.head_spectrum(
        tw.read_weights(model), layer=LAYER, head=HEAD, circuit=circuit, n=3, k=50
    )
    for direction in range(3):
        result = examples(model, circuit, direction=direction)
        for name in SIDES:
            assert result.words(name).token_string == (
                getattr(spectrum, name).token_string[direction],
            )


def test_in_layer_0_a_position_projects_as_its_token():
    """Without added positions the stream that enters is the embedding."""
    result = examples(shared_bridge("llama"), "QK", layer=0)
    for example in result.examples:
        words = result.words(example.side)
        ids = words.token_index[0].tolist()
        assert (example.token_index in ids) == (example.token_rank < len(ids))
        if example.token_index in ids:
            assert example.projection == pytest.approx(
                float(words.score[0, ids.index(example.token_index)]), rel=1e-4
            )
    assert any(example.token_rank < 50 for example in result.examples)
    assert result.median_rank("left")[0] < 25


def table(result):
    return result.to_dataframe().drop(columns="prompt").round(3)


@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_batches_and_order_change_nothing(circuit: str, monkeypatch):
    model = shared_bridge("llama")
    expected = table(examples(model, circuit))
    monkeypatch.setattr(sys.modules["tw_lens.studies.direction_examples"], "BATCH_SIZE", 1)
    assert table(examples(model, circuit)).equals(expected)
    backwards = tw.direction_examples(
        model, reversed(PROMPTS), circuit=circuit, context=CONTEXT, layer=LAYER, head=HEAD,
        direction=DIRECTION, n_examples=K,
    )  # fmt: skip
    assert table(backwards).equals(expected)
    assert (backwards.n_prompts, backwards.n_skipped) == (9, 2)


def test_top_activations_do_not_depend_on_the_order():
    generator = torch.Generator().manual_seed(0)
    places = [
        (Activation(float(value), -i, -1, 0), (int(before), int(token)))
        for i, (value, before, token) in enumerate(
            zip(
                torch.randint(0, 60, (300,), generator=generator),
                torch.randint(0, 4, (300,), generator=generator),
                torch.randint(0, 5, (300,), generator=generator),
                strict=True,
            )
        )
    ]
    greedy = []
    for place, pair in sorted(places, reverse=True):
        tokens = [other[1] for _, other in greedy]
        if pair not in [other for _, other in greedy] and tokens.count(pair[1]) < 2:
            greedy.append((place, pair))
    for k in (1, 3, 7, 50):
        for _ in range(10):
            top = TopActivations(k)
            for i in torch.randperm(len(places), generator=generator).tolist():
                top.push(*places[i])
            assert top.activations() == [place for place, _ in greedy[:k]]


def test_local_maxima_are_above_0_and_above_their_neighbours():
    values = torch.tensor([9.0, 1.0, 3.0, 2.0, -1.0, -2.0, -0.5, -3.0, 4.0, 4.0])[:, None]
    result = local_maxima(values, reach=1, first_position=1)[:, 0]
    assert result.nonzero()[:, 0].tolist() == [2, 8, 9]
    assert local_maxima(values, reach=3, first_position=0)[:, 0].nonzero()[:, 0].tolist() == [
        0,
        8,
        9,
    ]


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "gemma2", "neox"])
def test_parts_of_queries_and_keys_add_up_to_the_score(architecture: str):
    """Query-key norms divide the parts as they divide the whole (the gains have no bias here)."""
    model = shared_bridge(architecture)
    block = tw.read_weights(model).block(LAYER)
    x = tw.read_states(model, [5, 6, 7, 8, 9]).stream[LAYER]
    q, k = block.queries(x), block.keys(x)
    kv = block.kv_head[HEAD]
    whole = score_contribution(block, x, HEAD, q[:, [HEAD]], k[:, kv])[0]
    expected = block.scores(q, k)[HEAD]
    assert torch.allclose(
        block.attention_scores.softcap_scores(whole), expected, atol=1e-4, rtol=1e-4
    )
    half = torch.rand(q[:, HEAD].shape, generator=torch.Generator().manual_seed(0))
    both = torch.stack([half, q[:, HEAD] - half], dim=1)
    parts = score_contribution(block, x, HEAD, both, k[:, kv])
    assert torch.allclose(sum(parts), whole, atol=1e-3, rtol=1e-4)


def test_shares_and_ranks_against_random_pairs():
    result = examples(golden_bridge(), "QK")
    for name in SIDES:
        ranks = [example.token_rank for example in result.of_side(name)]
        share, random = result.share_among_highest(name)
        assert share == pytest.approx(sum(rank < 50 for rank in ranks) / len(ranks))
        assert 0 <= random <= 1
        median, usual = result.median_rank(name)
        assert median == pytest.approx(100 * sorted(ranks)[(len(ranks) - 1) // 2] / result.d_vocab)
        assert 0 < usual < 100 and 1 / 50 <= result.p_value(name) <= 1
    again = examples(golden_bridge(), "QK")
    assert again.headline() == result.headline()
    other = examples(golden_bridge(), "QK", seed=1)
    assert table(other).equals(table(result)) and other.headline() != result.headline()


def test_caveats_name_what_was_left_out():
    long = [5, 6, 7] * 40
    result = tw.direction_examples(golden_bridge(), ["", long, [5, 6, 7]], layer=0, head=0)
    assert (result.n_prompts, result.n_cut, result.n_skipped) == (2, 1, 1)
    names = {caveat.name for caveat in result.caveats}
    assert {"positions", "cut", "left out", "few prompts"} <= names
    everything = tw.direction_examples(
        golden_bridge(), [[5, 6, 7]], layer=0, head=0, first_position=0
    )
    assert everything.n_positions == 3
    assert "positions" not in {caveat.name for caveat in everything.caveats}


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"direction": 12}, IndexError, "direction 12 does not exist: W_QK of L1H3 has directions"),
        ({"direction": -1}, IndexError, "direction -1 does not exist"),
        ({"head": 4}, IndexError, "head 4 does not exist"),
        ({"layer": 3}, IndexError, "layer 3 does not exist"),
        ({"n_examples": 0}, ValueError, "n_examples must be at least 1, got 0"),
        ({"context": 0}, ValueError, "context must be at least 1, got 0"),
        ({"first_position": -1}, ValueError, "first_position must be at least 0, got -1"),
    ],
)
def test_bad_input_is_rejected_in_one_sentence(options, error, sentence):
    arguments = {"layer": 1, "head": 3, **options}
    with pytest.raises(error, match=sentence):
        tw.direction_examples(shared_bridge("gpt2"), PROMPTS, **arguments)


def test_examples_without_a_next_token_have_no_share():
    """In prompts of two tokens the examples are at the end."""
    prompts = [[i, i + 1] for i in range(5, 40)]
    result = tw.direction_examples(
        shared_bridge("llama"), prompts, layer=1, head=2, circuit="OV", n_examples=3
    )
    assert len(result.of_side("right")) == 3
    assert result.description("right") == "right: no example has a next token"
    assert "nan" not in result.headline()


def test_unusable_prompts_and_circuits_are_rejected():
    model = shared_bridge("gpt2")
    for prompts in ([], ["", " "], [[5], [6]]):
        with pytest.raises(ValueError, match="no prompt has a position to measure"):
            tw.direction_examples(model, prompts, layer=0, head=0)
    with pytest.raises(TypeError, match="one text"):
        tw.direction_examples(model, "w5 w6", layer=0, head=0)
    with pytest.raises(Exception, match="circuit"):
        tw.direction_examples(model, PROMPTS, layer=0, head=0, circuit="VO")


def test_examples_have_no_caveat_on_intervals():
    names = {caveat.name for caveat in examples(golden_bridge(), "QK").caveats}
    assert {"positions", "few prompts"} <= names and "intervals" not in names


@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_a_filter_restricts_the_token_lists_and_nothing_else(circuit: str):
    """Ranks, shares and signs are those of the whole vocabulary."""
    model = golden_bridge()
    weights = tw.read_weights(model)
    subset = tw.token_filter(weights, whole_words=False, id_band=(100, 130))
    whole, result = examples(model, circuit), examples(model, circuit, token_filter=subset)
    assert table(result).equals(table(whole))
    spectrum = tw.head_spectrum(
        weights, layer=LAYER, head=HEAD, circuit=circuit, n=2, k=50, token_filter=subset
    )
    for side in SIDES:
        assert result.words(side).token_string == (getattr(spectrum, side).token_string[DIRECTION],)
        assert set(result.words(side).token_index.flatten().tolist()) == set(range(100, 130))
        assert result.share_among_highest(side) == whole.share_among_highest(side)
        assert "among the 50 highest" in result.description(side)
    names = {caveat.name for caveat in result.caveats} - {caveat.name for caveat in whole.caveats}
    assert names == {"token filter", "ranks"}
    with pytest.raises(ValueError, match="token"):
        examples(model, circuit, token_filter=replace(subset, keep=subset.keep[:-1]))
