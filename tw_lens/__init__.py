"""tw_lens: geometric interpretation of transformer heads, on top of TransformerLens.

1. `read_weights(model)`: the weights in canonical form; `check(model, prompt)` certifies them;
   `stack(model, "decoder")`: one stack of an encoder-decoder, for every call that takes a model.
2. `embedding_distances`, `token_norms`: tokens on the sphere; `token_filter`: tokens to list;
   `layer_vocabulary`: tokens where a layer meets them; `faithfulness`: how well this predicts.
3. `head_probe`, `head_spectrum`, `head_atlas`, `bias_directions`, `head_ellipsoid`: what heads do.
4. `head_probe_by_distance`, `head_score_by_distance`: heads as functions of the distance.
5. `direction_coherence`, `direction_association`, `direction_degeneracy`: tests against nulls.
6. `read_states(model, prompt)`: the residual stream; `attention_pattern`: its attention.
7. `trajectory`, `trajectory_attribution`, `fit_projection`: the path of every token by layer.
8. `trajectory_statistics`, `trajectory_alignment`: paths over many prompts; `sweep`: many models.
9. `direction_examples`, `direction_ablation`: directions in text; `report`: all on one HTML page;
   `paper_tables`: every table and figure of the paper in a folder.

A name is imported when it is first used: `import tw_lens` itself imports neither torch nor pandas.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tw_lens._version import __version__ as __version__

if TYPE_CHECKING:
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
        head_position_scores,
        head_probe,
        head_probe_by_distance,
        head_score_by_distance,
        head_spectrum,
        neuron_probe,
        neuron_table,
        router_table,
        score_attribution,
        score_directions,
        source_attribution,
        span_shares,
        token_filter,
        token_norms,
        trajectory,
        trajectory_attribution,
    )
    from tw_lens.canonical import (
        LayerVocabulary,
        Points,
        States,
        Weights,
        load_points,
        load_vocabulary,
        position_points,
        sae_points,
    )
    from tw_lens.errors import Caveat, UnsupportedModelError
    from tw_lens.reading import (
        check,
        load_model,
        load_states,
        permute_weights,
        read_states,
        read_weights,
        save_states,
        stack,
    )
    from tw_lens.rendering import (
        attention_widget,
        cite,
        examples_widget,
        paper_tables,
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
        faithfulness,
        head_kinds,
        layer_vocabulary,
        neuron_ablation,
        neuron_examples,
        reference_prompts,
        reference_vocabulary,
        sweep,
        trajectory_alignment,
        trajectory_statistics,
    )

__all__ = [  # noqa: RUF022 - in the order of the pipeline
    "load_model",
    "permute_weights",
    "stack",
    "read_weights",
    "check",
    "embedding_distances",
    "token_norms",
    "token_filter",
    "common_nouns",
    "layer_vocabulary",
    "reference_prompts",
    "reference_vocabulary",
    "load_vocabulary",
    "faithfulness",
    "position_points",
    "load_points",
    "sae_points",
    "head_probe",
    "head_spectrum",
    "head_atlas",
    "bias_directions",
    "head_ellipsoid",
    "head_probe_by_distance",
    "head_score_by_distance",
    "head_position_scores",
    "span_shares",
    "head_kinds",
    "direction_coherence",
    "direction_association",
    "direction_degeneracy",
    "read_states",
    "save_states",
    "load_states",
    "trajectory",
    "trajectory_attribution",
    "neuron_ablation",
    "neuron_examples",
    "neuron_probe",
    "neuron_table",
    "router_table",
    "score_attribution",
    "score_directions",
    "source_attribution",
    "fit_projection",
    "attention_pattern",
    "trajectory_statistics",
    "trajectory_alignment",
    "sweep",
    "direction_ablation",
    "direction_examples",
    "plot_trajectories",
    "plot_trajectory_measures",
    "attention_widget",
    "token_widget",
    "examples_widget",
    "report",
    "paper_tables",
    "save_table",
    "save_figure",
    "cite",
    "Weights",
    "States",
    "LayerVocabulary",
    "Points",
    "Caveat",
    "UnsupportedModelError",
]

PACKAGES = ("errors", "canonical", "reading", "analyses", "studies", "rendering")

if not TYPE_CHECKING:  # type checkers read the imports above, and report unknown names

    def __getattr__(name: str) -> Any:
        """Import a public name, or a module of the package, and keep it."""
        if name in __all__:
            modules = (import_module(f"tw_lens.{package}") for package in PACKAGES)
            home = next(module for module in modules if name in module.__all__)
            globals()[name] = getattr(home, name)
            return globals()[name]
        if name.isidentifier() and find_spec(f"tw_lens.{name}"):
            return import_module(f"tw_lens.{name}")
        raise AttributeError(f"module 'tw_lens' has no attribute {name!r}")

    def __dir__() -> list[str]:
        """List the public names too, for editors and notebooks."""
        return sorted({*globals(), *__all__})
