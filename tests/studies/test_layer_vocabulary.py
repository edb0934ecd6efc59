"""Points of tokens at every layer, against transformers' own hidden states by hand, float64."""

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge, tiny_bridge, tiny_hf
from tests.zoo import tiny, zoo_bridge
from tw_lens.canonical import load_vocabulary, token_points
from tw_lens.geometry.affine_map import STRENGTHS
from tw_lens.studies import CheckpointError, checkpoint
from tw_lens.studies.layer_vocabulary import layer_vocabulary
from tw_lens.studies.prompts import prompt_hash
from tw_lens.studies.token_sums import TokenSums

PROMPTS = [[0, 5, 6, 7, 6, 40, 9], [0, 6, 5, 6, 9, 9, 7], [0, 7, 40, 5, 6], [0, 9, 5]]
# (how the host adds nothing to ids; whether the norm centres; its eps; whether there is a norm)
KINDS = {
    "gpt2": (True, 1e-5), "neox": (True, 1e-5), "llama": (False, 1e-6), "gemma2": (False, 1e-6),
    "qwen3": (False, 1e-6),
}  # fmt: skip


def on_sphere(x: torch.Tensor, centred: bool, eps: float) -> torch.Tensor:
    x = x - x.mean(-1, keepdim=True) if centred else x
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def states_of(hf, prompts):
    hf = hf.double()
    with torch.no_grad():
        return [hf(torch.tensor([ids]), output_hidden_states=True).hidden_states for ids in prompts]


def means(states, prompts, layer, normalise, first=1):
    """Mean state of every token by loops: {token: (mean, count)}, and the mean of all."""
    found: dict[int, list[torch.Tensor]] = {}
    for of_prompt, ids in zip(states, prompts, strict=True):
        for position, token in enumerate(ids):
            if position >= first:
                found.setdefault(token, []).append(normalise(of_prompt[layer][0, position]))
    everything = torch.stack([y for ys in found.values() for y in ys])
    return {t: (torch.stack(ys), len(ys)) for t, ys in found.items()}, everything.mean(0)


@pytest.mark.parametrize("architecture", KINDS)
@pytest.mark.parametrize("prior_count", [0.0, 1.5])
def test_text_points_are_the_mean_hidden_states(architecture, prior_count):
    centred, eps = KINDS[architecture]
    states = states_of(tiny_hf(architecture), PROMPTS)
    made = layer_vocabulary(
        tiny_bridge(architecture),
        prompts=PROMPTS,
        unseen="omitted",
        min_count=3,
        prior_count=prior_count,
    )
    for layer in range(3):
        expected, mean = means(states, PROMPTS, layer, lambda x: on_sphere(x, centred, eps))
        kept = {t: ys for t, (ys, n) in expected.items() if n >= 3}
        assert made.token_index.tolist() == sorted(kept)
        for i, token in enumerate(sorted(kept)):
            ys = kept[token]
            point = (ys.sum(0) + prior_count * mean) / (len(ys) + prior_count)
            assert torch.allclose(made.points[layer][i].double(), point, atol=1e-5)
            assert int(made.count[i]) == len(ys)


def test_an_encoders_points_are_its_hidden_states():
    """BERT normalises the stream itself: attention reads it as it is."""
    hf = tiny("BertForMaskedLM")
    states = states_of(hf, PROMPTS)
    made = layer_vocabulary(
        zoo_bridge("BertForMaskedLM"), prompts=PROMPTS, unseen="omitted", min_count=2
    )
    for i, layer in enumerate(made.layers):
        expected, _ = means(states, PROMPTS, layer, lambda x: x)
        for point, token in zip(made.points[i], made.token_index.tolist(), strict=True):
            assert torch.allclose(point.double(), expected[token][0].mean(0), atol=1e-5)


def test_alone_points_are_states_behind_the_prefix():
    hf = tiny_hf("llama")
    states = states_of(hf, [[0, token] for token in range(5, 15)])
    made = layer_vocabulary(tiny_bridge("llama"), source="alone")
    assert len(made) == 997 and made.token_index.tolist() == list(range(997))
    for token, of_prompt in zip(range(5, 15), states, strict=True):
        for layer in range(3):
            point = on_sphere(of_prompt[layer][0, 1], False, 1e-6)
            assert torch.allclose(made.points[layer][token].double(), point, atol=1e-5)


def test_embedding_points_are_the_vocabulary_on_the_sphere():
    model = golden_bridge()
    weights = tw.read_weights(model)
    made = layer_vocabulary(model, source="embedding", layers=[0, 2])
    rows = torch.cat(list(weights.vocabulary.on_sphere(weights.block(2).norm)()))
    assert made.layers == (0, 2) and torch.equal(made.points[1], rows)
    assert torch.equal(torch.cat(list(points_of(model, 2, made).rows())), rows)


def points_of(model, layer, made=None):
    weights = tw.read_weights(model)
    return token_points(weights, layer, weights.block(layer).norm, made)


def test_tokens_without_a_point_are_zero_rows_and_named():
    model = golden_bridge()
    made = layer_vocabulary(model, prompts=PROMPTS, min_count=3, layers=[1], unseen="omitted")
    points = points_of(model, 1, made)
    table = torch.cat(list(points.rows()))
    assert table.shape[0] == 997 and bool((table[~made.mask] == 0).all())
    ids = torch.tensor([5, 40, 6])
    assert torch.equal(points.gather(ids)[[0, 2]], points.at(torch.tensor([5, 6])))
    assert not points.gather(ids)[1].any()
    with pytest.raises(ValueError, match=r"token id 40 has no point in the vocabulary \(1 of 3"):
        points.at(ids)
    with pytest.raises(ValueError, match="has points for layers 1, not for layer 2"):
        made.of_layer(2)


def test_unseen_tokens_are_predicted_by_the_map_of_their_layer():
    """The map is that of a plain ridge regression at the strength that was chosen."""
    model = golden_bridge()
    g = torch.Generator().manual_seed(1)
    prompts = [[0, *torch.randint(1, 300, (20,), generator=g).tolist()] for _ in range(30)]
    made = layer_vocabulary(model, prompts=prompts, layers=[2], prior_count=3)
    plain = layer_vocabulary(model, prompts=prompts, layers=[2], unseen="omitted")
    assert torch.equal(made.token_index, plain.token_index) and bool(made.mask.all())
    embedded = torch.cat(list(points_of(model, 2).rows())).double()
    x, y = embedded[plain.token_index], plain.points[0].double()
    weight = (plain.count / (plain.count + 10)).double()
    center_x, center_y = ((weight[:, None] * t).sum(0) / weight.sum() for t in (x, y))
    moments = (x - center_x).T * weight
    size = float((weight[:, None] * (x - center_x).square()).sum() / x.shape[1])
    matrix = made.map_of_layer(2).double()
    errors = []
    for strength in STRENGTHS:
        gram = moments @ (x - center_x) + strength * size * torch.eye(x.shape[1]).double()
        fitted = torch.linalg.solve(gram, moments @ (y - center_y))
        errors.append(float((fitted - matrix[:-1]).norm() / fitted.norm()))
    assert min(errors) < 1e-4
    predicted = embedded @ matrix[:-1] + matrix[-1]
    seen, n = plain.token_index, plain.count[:, None]
    table = torch.cat(list(points_of(model, 2, made).rows())).double()
    expected = predicted.clone()
    expected[seen] = (n * y + 3 * predicted[seen]) / (n + 3)
    assert torch.allclose(table, expected, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "neox"])
def test_predictions_are_exact_where_the_embedding_is_the_state(architecture):
    """Layer 0 without positions in the stream: the map is the identity, for unseen tokens too."""
    model = tiny_bridge(architecture)
    g = torch.Generator().manual_seed(1)
    prompts = [[0, *torch.randint(1, 500, (30,), generator=g).tolist()] for _ in range(20)]
    made = layer_vocabulary(model, prompts=prompts, layers=[0])
    own, embedded = (torch.cat(list(points_of(model, 0, v).rows())) for v in (made, None))
    assert torch.allclose(own, embedded, atol=1e-3)


def test_a_killed_study_resumes_to_the_last_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_SAVES", 0.0)
    model, file = golden_bridge(), tmp_path / "sums"
    whole = layer_vocabulary(model, prompts=PROMPTS, batch_size=1)

    class Killed(Exception):
        pass

    def stop(step: str) -> None:
        if "3 of 4" in step:
            raise Killed

    with pytest.raises(Killed):
        layer_vocabulary(model, prompts=PROMPTS, batch_size=1, checkpoint=file, progress=stop)
    resumed = layer_vocabulary(model, prompts=PROMPTS, batch_size=1, checkpoint=file)
    for name in ("points", "maps"):
        for one, other in zip(getattr(whole, name), getattr(resumed, name), strict=True):
            assert torch.equal(one, other)
    assert torch.equal(whole.count, resumed.count)
    assert torch.equal(whole.prompt_hashes, resumed.prompt_hashes)
    with pytest.raises(CheckpointError, match="holds a study with other settings"):
        layer_vocabulary(model, prompts=PROMPTS, layers=[1], checkpoint=file)


def test_held_out_prompts_are_measured_and_kept(tmp_path):
    model = golden_bridge()
    held_out = [[0, *range(5, 15)], [0, *range(7, 20)]]
    made = layer_vocabulary(model, prompts=PROMPTS, layers=[1, 2], held_out=held_out)
    measured = tw.faithfulness(model, held_out, vocabulary=made)
    assert made.faithfulness.heads.tolist() == [[la, h] for la in (1, 2) for h in range(4)]
    value = measured.of_heads.correlation.value[0].float()
    assert torch.equal(made.faithfulness.value, value)
    again = load_vocabulary(made.save(tmp_path / "v"))
    assert torch.equal(again.faithfulness.value, value) and again.faithfulness.n_prompts == 2
    for one, other in zip(made.maps, again.maps, strict=True):
        assert torch.equal(one.half(), other)


def test_memory_grows_with_the_tokens_that_occur():
    sums = TokenSums(10_000, 4, 2)
    g = torch.Generator().manual_seed(0)
    tokens, y = torch.randint(0, 50, (400,), generator=g), torch.randn(2, 400, 4, generator=g)
    for some, part in zip(tokens.split(7), y.split(7, dim=1), strict=True):
        sums.add(some, part)
    assert sums.rows.values.untyped_storage().nbytes() <= 4 * 2 * 128 * 4
    token_index, count, points = sums.points(1, 0.0)
    for i, token in enumerate(token_index.tolist()):
        at = tokens == token
        assert int(count[i]) == int(at.sum())
        assert torch.allclose(points[1][i], y[1, at].mean(0), atol=1e-5)


def test_saved_and_loaded_in_half_precision(tmp_path):
    made = layer_vocabulary(golden_bridge(), prompts=PROMPTS, min_count=2)
    again = load_vocabulary(made.save(tmp_path / "points.safetensors"))
    for name in ("model_name", "fingerprint", "source", "layers", "d_vocab"):
        assert getattr(again, name) == getattr(made, name)
    for name in ("token_index", "count", "prompt_hashes"):
        assert torch.equal(getattr(again, name), getattr(made, name))
    for one, other in zip(made.points, again.points, strict=True):
        assert torch.equal(one.half(), other)
    assert again.of_layer(1).dtype == torch.float32


def test_a_cut_or_other_file_is_rejected(tmp_path):
    path = layer_vocabulary(golden_bridge(), prompts=PROMPTS, min_count=2).save(tmp_path / "v")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is truncated, damaged or no safetensors file"):
        load_vocabulary(path)
    states = tw.save_states(tw.read_states(golden_bridge(), "w5 w6"), tmp_path / "states")
    with pytest.raises(ValueError, match="holds no layer vocabulary"):
        load_vocabulary(states)


def test_a_model_trained_on_is_another_model():
    model = tiny_bridge("gpt2", seed=3)
    made = layer_vocabulary(model, prompts=PROMPTS, min_count=2)
    made.require_model(tw.read_weights(model))
    with torch.no_grad():
        next(iter(model.parameters())).add_(1e-3)
    with pytest.raises(ValueError, match="are not those of"):
        made.require_model(tw.read_weights(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "text"}, 'source="text" needs prompts=, a list of texts; got None'),
        (
            {"source": "alone", "prompts": [[5]]},
            'prompts= needs source="text"',
        ),
        ({"source": "alone", "checkpoint": "x"}, 'checkpoint= needs source="text"'),
        ({"prompts": [[0, 5]], "first_position": 0}, "first_position must be at least 1, got 0"),
        (
            {"prompts": [[0, 5, 6]], "min_count": 2},
            "no token stands at 2 positions of the 1 prompts",
        ),
        ({"prompts": [[5]]}, "no prompt has a position to measure"),
        ({"prompts": [[0, 5]], "prior_count": -1.0}, "prior_count must be at least 0, got -1.0"),
    ],
)
def test_bad_input_gets_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        layer_vocabulary(golden_bridge(), **options)


def test_a_prompt_is_known_again():
    assert prompt_hash(torch.tensor([5, 6])) == prompt_hash(torch.tensor([5, 6]))
    assert prompt_hash(torch.tensor([5, 6])) != prompt_hash(torch.tensor([56]))
