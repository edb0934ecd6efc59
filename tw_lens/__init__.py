"""tw_lens: how words travel through a transformer, on top of TransformerLens.

1. `read_weights(model)`: the weights in one folded form, whatever the model.
2. `check(model, prompt)`: the certificate that this form computes what the model computes.
3. `embedding_distances`, `token_norms`: the words on the sphere; `token_filter`: which to list.
4. `head_probe`, `head_spectrum`, `bias_directions`, `head_ellipsoid`, `head_probe_by_distance`,
   `head_score_by_distance`: the heads as maps of it; `head_atlas`: all of them in one table;
   `direction_coherence`, `direction_association`, `direction_degeneracy`: what of it stands above chance.
5. `read_states(model, prompt)`: a prompt's residual stream.
6. `trajectory`, `trajectory_attribution`, `fit_projection`, `attention_pattern`: the words travelling.
7. `trajectory_statistics`, `trajectory_alignment`, `direction_ablation`, `direction_examples`: many prompts through
   the running model, beside controls.
8. `report(model, path, prompt=..., layers=[...])`: all of it on one page.
9. `save_table(result, path)`: its table for a paper, with the line to `cite` it by.
"""

from tw_lens._version import __version__ as __version__
from tw_lens.analyses import (
    attention_pattern,
    bias_directions,
    common_nouns,
    direction_association,
    direction_coherence,
    direction_degeneracy,
    embedding_distances,
    fit_projection,
    head_atlas,
    head_ellipsoid,
    head_probe,
    head_probe_by_distance,
    head_score_by_distance,
    head_spectrum,
    token_filter,
    token_norms,
    trajectory,
    trajectory_attribution,
)
from tw_lens.canonical import States, Weights
from tw_lens.errors import Caveat, UnsupportedModelError
from tw_lens.reading import (
    check,
    load_model,
    load_states,
    permute_weights,
    read_states,
    read_weights,
    save_states,
)
from tw_lens.rendering import (
    attention_widget,
    cite,
    examples_widget,
    plot_trajectories,
    plot_trajectory_measures,
    report,
    save_figure,
    save_table,
    token_widget,
)
from tw_lens.studies import (
    direction_ablation,
    direction_examples,
    trajectory_alignment,
    trajectory_statistics,
)

__all__ = [  # noqa: RUF022 - in the order of the pipeline
    "load_model",
    "read_weights",
    "check",
    "embedding_distances",
    "token_norms",
    "common_nouns",
    "token_filter",
    "head_probe",
    "head_spectrum",
    "head_atlas",
    "direction_coherence",
    "direction_association",
    "direction_degeneracy",
    "bias_directions",
    "head_probe_by_distance",
    "head_score_by_distance",
    "head_ellipsoid",
    "read_states",
    "save_states",
    "load_states",
    "trajectory",
    "trajectory_attribution",
    "fit_projection",
    "attention_pattern",
    "trajectory_statistics",
    "trajectory_alignment",
    "direction_examples",
    "direction_ablation",
    "permute_weights",
    "plot_trajectories",
    "plot_trajectory_measures",
    "attention_widget",
    "token_widget",
    "examples_widget",
    "report",
    "save_table",
    "save_figure",
    "cite",
    "Caveat",
    "States",
    "UnsupportedModelError",
    "Weights",
]
