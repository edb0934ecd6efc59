"""Layer vocabularies and their faithfulness on a HookedTransformer."""

import pytest
import torch

import tw_lens as tw
from tests.models import tiny_hooked

G = torch.Generator().manual_seed(3)
PROMPTS = [torch.randint(1, 25, (10,), generator=G).tolist() for _ in range(30)]


@pytest.mark.parametrize("norm", ["LN", "RMS"])
def test_points_are_the_mean_states_of_the_cache(norm):
    model = tiny_hooked(norm)
    made = tw.layer_vocabulary(
        model, prompts=PROMPTS[:20], layers=[1], unseen="omitted", held_out=PROMPTS[20:]
    )
    states: dict[int, list[torch.Tensor]] = {}
    block = tw.read_weights(model).block(1)
    for ids in PROMPTS[:20]:
        _, cache = model.run_with_cache(torch.tensor([ids]))
        for position in range(1, len(ids)):
            y = block.norm.sphere(cache["blocks.1.hook_resid_pre"][0, position])
            states.setdefault(ids[position], []).append(y)
    assert made.token_index.tolist() == sorted(states)
    for point, count, token in zip(
        made.points[0], made.count, made.token_index.tolist(), strict=True
    ):
        assert int(count) == len(states[token])
        assert torch.allclose(point, torch.stack(states[token]).mean(0), atol=1e-5)
    assert made.faithfulness.n_prompts == 10
    assert float(made.faithfulness.value[0].mean()) > float(made.faithfulness.floor[0].mean())
    spectrum = tw.head_spectrum(tw.read_weights(model), layer=1, n=2, vocabulary=made)
    assert "on held-out text" in spectrum.headline()
