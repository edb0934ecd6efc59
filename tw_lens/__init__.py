"""tw_lens: how words travel through a transformer, on top of TransformerLens.

1. `read_weights(model)`: the weights in one folded form, whatever the model.
2. `check(model, prompt)`: the certificate that this form computes what the model computes.
3. `embedding_distances`, `token_norms`: the words on the sphere; `word_filter`: which to list.
4. `head_probe`, `head_spectrum`, `bias_directions`, `head_ellipsoid`, `distance_probe`,
   `score_by_distance`: the heads as maps of it; `head_atlas`: all of them in one table;
   `coherence`, `side_pairing`, `direction_blocks`: what of it stands above chance.
5. `read_states(model, prompt)`: a prompt's residual stream.
6. `trajectory`, `movers`, `fit_map`, `attention_pattern`: the words travelling.
7. `trajectory_statistics`, `approach`, `direction_effect`, `direction_uses`: many prompts through
   the running model, beside controls.
8. `report(model, path, prompt=..., layers=[...])`: all of it on one page.
9. `save_table(result, path)`: its table for a paper, with the line to `cite` it by.
"""

from tw_lens.analyses import (
    attention_pattern,
    bias_directions,
    coherence,
    common_nouns,
    direction_blocks,
    distance_probe,
    embedding_distances,
    fit_map,
    head_atlas,
    head_ellipsoid,
    head_probe,
    head_spectrum,
    movers,
    score_by_distance,
    side_pairing,
    token_norms,
    trajectory,
    word_filter,
)
from tw_lens.canonical import States, Weights
from tw_lens.errors import Caveat, UnsupportedModel
from tw_lens.reading import (
    check,
    load_model,
    load_states,
    random_twin,
    read_states,
    read_weights,
    save_states,
)
from tw_lens.rendering import cite, draw_measures, draw_walks, report, save_figure, save_table
from tw_lens.studies import approach, direction_effect, direction_uses, trajectory_statistics

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - in the order of the pipeline
    "load_model",
    "read_weights",
    "check",
    "embedding_distances",
    "token_norms",
    "common_nouns",
    "word_filter",
    "head_probe",
    "head_spectrum",
    "head_atlas",
    "coherence",
    "side_pairing",
    "direction_blocks",
    "bias_directions",
    "distance_probe",
    "score_by_distance",
    "head_ellipsoid",
    "read_states",
    "save_states",
    "load_states",
    "trajectory",
    "movers",
    "fit_map",
    "attention_pattern",
    "trajectory_statistics",
    "approach",
    "direction_uses",
    "direction_effect",
    "random_twin",
    "draw_walks",
    "draw_measures",
    "report",
    "save_table",
    "save_figure",
    "cite",
    "Caveat",
    "States",
    "UnsupportedModel",
    "Weights",
]
