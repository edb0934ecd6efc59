"""Report: the paper's analyses of a model and a prompt on one self-contained page.

1. Reject an unwritable path or unknown layers before anything is computed.
2. Read and certify the model.
3. Run the analyses in the paper's order, a section each.
4. Render the sections into the template, with the scripts of plotly and CircuitsVis once.
5. Write the page atomically.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tw_lens.analyses.projection import Method
from tw_lens.arguments import checked
from tw_lens.canonical import LayerVocabulary, Weights
from tw_lens.files import require_writable, write_atomically
from tw_lens.progress import Progress, steps
from tw_lens.reading import Certificate, Prompt, check, read_states, read_weights
from tw_lens.rendering.page.head_sections import atlas_section, layer_section
from tw_lens.rendering.page.kinds_section import kinds_section
from tw_lens.rendering.page.panels import Section, Table
from tw_lens.rendering.page.tokens_section import tokens_section
from tw_lens.rendering.page.trajectory_sections import prompts_section, trajectory_section
from tw_lens.rendering.widgets.circuitsvis import circuitsvis_script
from tw_lens.results.arguments import CIRCUITS
from tw_lens.results.token_source import token_source
from tw_lens.studies import head_kinds
from tw_lens.studies.reference_text import PageVocabulary, choose_vocabulary

N_PROBED = 12
LAYERS_OPEN = 4


@dataclass(frozen=True)
class Page:
    """The data of the template."""

    weights: Weights
    certificate: Certificate
    prompt_tokens: tuple[str, ...]
    sections: tuple[Section, ...]
    layers: tuple[int, ...]
    token_source: str
    why_embeddings: str


@checked
def report(
    model: Any,
    path: str | Path,
    *,
    prompt: Prompt,
    layers: Sequence[int] | None = None,
    method: Method = "pca",
    words: Sequence[str | int] | None = None,
    vocabulary: LayerVocabulary | PageVocabulary = "text",
    prompts: Iterable[Prompt] | None = None,
    progress: Progress = False,
) -> Path:
    """Write one self-contained HTML page about a model and a prompt.

    The page holds the certificate, embedding distances and token norms; all heads of the model in
    one table; for each chosen layer the probes, spectra (QK and OV, both sides as tokens), bias
    directions and attention; the trajectories of the prompt; and, where `prompts` are given, those
    of many prompts with controls. Everything is in the exact convention; token norms are also in
    the published one where weights are raw.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        path: the page; its folder must exist.
        prompt: a text or token ids.
        layers: layers to read; by default the first, middle and last attention layer.
        method: the projection of the trajectories, "pca" or "umap".
        words: words to probe (single tokens or ids); common nouns by default.
        vocabulary: where tokens are read: from `layer_vocabulary`, or "text" for their mean states
            over reference text (a minute, then cached; see `reference_vocabulary`), or "embedding".
        prompts: prompts for the section on many prompts (see `trajectory_statistics`); some
            hundreds take a minute, and a copy of the model in memory.
        progress: True shows a bar; a function is called with a sentence at each step.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError, PermissionError: the page cannot be written there.
        IndexError: a layer does not exist.
        UnsupportedModelError, ValueError: see `read_weights` and `read_states`.

    Example:
        >>> report(model, "page.html", prompt="w5 w6 w7", layers=[0]).name
        'page.html'

    Source: arXiv 2309.07315.
    """
    path = Path(path)
    require_writable(path)
    with steps(progress) as step:
        step("Reading the weights")
        weights = read_weights(model)
        chosen = weights.require_layers(_default_layers(weights) if layers is None else layers)
        step("Certifying the model")
        certificate = check(model, prompt)
        states = read_states(model, prompt)
        step("Reading tokens where the layers meet them")
        points, reason = choose_vocabulary(model, vocabulary, progress=step)
        probed = _probed_words(weights, words, states.tokens.tolist())
        step("Reading the token embeddings")
        sections = [tokens_section(weights)]
        step("Reading all heads of the model")
        sections.append(atlas_section(weights, chosen, points))
        step("Looking for known kinds of heads")
        kinds = head_kinds(weights, model, vocabulary=points)
        sections.append(kinds_section(kinds))
        folded = len(chosen) > LAYERS_OPEN
        for layer in chosen:
            step(f"Reading the heads of layer {layer}")
            sections.append(
                layer_section(weights, states, layer, probed, points, kinds=kinds, folded=folded)
            )
        step("Measuring the trajectories of the prompt")
        sections.append(trajectory_section(weights, states, method, points))
        if prompts is not None:
            step("Running the prompts and their controls")
            sections.append(prompts_section(model, list(prompts)))
        source = token_source(points).sentence(chosen, CIRCUITS)
        page = Page(
            weights, certificate, states.token_strings, tuple(sections), chosen, source, reason
        )
        step("Writing the page")
        html = render_page(page)
        return write_atomically(path, lambda file: file.write_text(html, encoding="utf-8"))


def render_page(page: Page) -> str:
    """Return the page as HTML."""
    from datetime import datetime, timezone

    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    from tw_lens._version import __version__
    from tw_lens.rendering.page.lazy_figures import lazy_figure, shared_template
    from tw_lens.tokens import visible

    environment = Environment(
        loader=PackageLoader("tw_lens.rendering.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    return environment.get_template("report.html.j2").render(
        page=page,
        certificate_figure=lazy_figure(page.certificate),
        comparisons=_comparisons(page.certificate),
        layers=_ranges(page.layers),
        versions=_versions(),
        version=__version__,
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        figure_template=shared_template(),
        plotly_script=get_plotlyjs(),
        circuitsvis_script=circuitsvis_script(),
    )


def _comparisons(certificate: Certificate) -> Table:
    rows = tuple(
        (int(layer), quantity, f"{absolute:.2e}", f"{relative:.2e}")
        for layer, quantity, absolute, relative in certificate.to_dataframe().itertuples(
            index=False
        )
    )
    columns = ("layer", "quantity", "largest absolute error", "relative error")
    return Table("all comparisons of the certificate", columns, rows, (None,) * len(rows))


def _ranges(layers: Sequence[int]) -> str:
    """Layers as text, with consecutive ones as ranges: `0, 15 to 18, 29`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    texts = (", ".join(map(str, run)) if len(run) < 3 else f"{run[0]} to {run[-1]}" for run in runs)
    return ", ".join(texts)


def _versions() -> str:
    from importlib.metadata import version

    from tw_lens._version import __version__

    packages = (("TransformerLens", "transformer-lens"), ("torch", "torch"))
    others = (f"{name} {version(package)}" for name, package in packages)
    return ", ".join([f"tw_lens {__version__}", *others])


def _default_layers(weights: Weights) -> tuple[int, ...]:
    """The first, the middle and the last attention layer."""
    layers = weights.attention_layers
    return layers[0], layers[len(layers) // 2], layers[-1]


def _probed_words(
    weights: Weights, words: Sequence[str | int] | None, prompt: list[int]
) -> list[int]:
    """Token ids to probe: the words, else common nouns in either spelling, else the prompt."""
    from tw_lens.analyses import common_nouns

    if words is not None:
        return weights.tokens.look_up(words)[0]
    for leading_space in (True, False):
        try:
            return list(common_nouns(weights, leading_space=leading_space))[:N_PROBED]
        except ValueError:
            continue
    return list(dict.fromkeys(prompt))[:N_PROBED]
