"""Report: the paper's analyses of a model and a prompt on one self-contained page.

1. Reject an unwritable path or unknown layers before anything is computed.
2. Read and certify the model.
3. Run the analyses: the findings, a map and cards of heads, and a section for each other question.
4. Render them into the template, with the scripts of plotly and CircuitsVis once.
5. Write the page atomically.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tw_lens._version import versions
from tw_lens.analyses import TrajectoryAttribution, head_atlas, trajectory, trajectory_attribution
from tw_lens.analyses.common_nouns import common_nouns_in_either_spelling
from tw_lens.analyses.projection import Method
from tw_lens.arguments import checked
from tw_lens.canonical import LayerVocabulary, States, Weights
from tw_lens.files import require_writable, write_atomically
from tw_lens.progress import Progress, steps
from tw_lens.reading import Certificate, Prompt, check, read_states, read_weights
from tw_lens.rendering.figures.null_markers import KEY, LEGEND
from tw_lens.rendering.page.atlas_section import STANDARDISED, atlas_section
from tw_lens.rendering.page.cross_section import cross_section
from tw_lens.rendering.page.faithfulness_text import DEFINITION
from tw_lens.rendering.page.findings import Finding, compared_quantities, find
from tw_lens.rendering.page.head_cards import LayerCards, layer_cards
from tw_lens.rendering.page.head_map import HeadMap, head_map
from tw_lens.rendering.page.kinds_section import kinds_section
from tw_lens.rendering.page.panels import Section, Table
from tw_lens.rendering.page.tokens_section import tokens_section
from tw_lens.rendering.page.trajectory_sections import prompts_section, trajectory_section
from tw_lens.rendering.widgets.circuitsvis import circuitsvis_script
from tw_lens.results.arguments import CIRCUITS
from tw_lens.results.token_source import token_source
from tw_lens.studies import head_kinds, trajectory_alignment, trajectory_statistics
from tw_lens.studies.reference_text import PageVocabulary, choose_vocabulary

if TYPE_CHECKING:
    from markupsafe import Markup

N_PROBED = 12


@dataclass(frozen=True)
class Page:
    """The data of the template."""

    weights: Weights
    certificate: Certificate
    prompt_tokens: tuple[str, ...]
    findings: tuple[Finding, ...]
    map: HeadMap
    cards: tuple[LayerCards, ...]
    sections: tuple[Section, ...]
    layers: tuple[int, ...]
    token_source: str
    faithfulness: str
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

    The page opens with what was found, in sentences. A map of all heads leads to the cards of the
    heads of the chosen layers: kind, spectra (QK and OV, both sides as tokens), probes, bias
    directions and attention; two cards can stand side by side, and "#L5H1" in the address opens
    one. Then all heads in one table, kinds of heads, embedding distances and token norms, the
    trajectories of the prompt, where `prompts` are given those of many prompts with controls, and
    the certificate; of a decoder its cross-attention too. Everything is in the exact convention;
    token norms are also in the published one where weights are raw.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        path: the page; its folder must exist.
        prompt: a text or token ids.
        layers: layers whose heads get cards; by default the first, middle and last attention layer.
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
        tokens = tokens_section(weights)
        step("Reading all heads of the model")
        atlas = head_atlas(weights, n=1, vocabulary=points, score="standardised")
        step("Looking for known kinds of heads")
        kinds = head_kinds(weights, model, vocabulary=points)
        cards = []
        for layer in chosen:
            step(f"Reading the heads of layer {layer}")
            cards.append(
                layer_cards(
                    weights, states, layer, probed, points, kinds=kinds, n_layers=len(chosen)
                )
            )
        step("Measuring the trajectories of the prompt")
        path_of_prompt, attribution = trajectory(weights, states), _attribution(weights, states)
        sections = [
            atlas_section(atlas, chosen),
            kinds_section(kinds, chosen),
            tokens,
            trajectory_section(weights, states, path_of_prompt, attribution, method, points),
        ]
        if states.crossing is not None:
            step("Reading the cross-attention")
            sections.insert(1, cross_section(read_weights(model.cross), states, chosen))
        alignment = None
        if prompts is not None:
            step("Running the prompts and their controls")
            many = list(prompts)
            alignment = trajectory_alignment(model, many)
            sections.append(prompts_section(alignment, trajectory_statistics(model, many)))
        source = token_source(points)
        known = attribution if isinstance(attribution, TrajectoryAttribution) else None
        page = Page(
            weights,
            certificate,
            states.token_strings,
            find(certificate, source, atlas, kinds, path_of_prompt, known, alignment),
            head_map(kinds, atlas, chosen),
            tuple(cards),
            tuple(sections),
            chosen,
            source.sentence(weights.attention_layers, CIRCUITS),
            "" if source.faithfulness is None else DEFINITION,
            reason,
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
    environment.filters["link_heads"] = lambda text: _link_heads(text, page.layers)
    titles = {"certificate": "Certificate", "heads": "Map of heads"}
    titles |= {section.anchor: section.title for section in page.sections}
    return environment.get_template("report.html.j2").render(
        page=page,
        certificate_figure=lazy_figure(page.certificate),
        comparisons=_comparisons(page.certificate),
        quantities=compared_quantities(page.certificate),
        key=KEY,
        legend=LEGEND,
        standardised=STANDARDISED,
        titles=titles,
        layers=_ranges(page.layers),
        versions=versions(),
        version=__version__,
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        figure_template=shared_template(),
        plotly_script=get_plotlyjs(),
        circuitsvis_script=circuitsvis_script(),
    )


def _attribution(weights: Weights, states: States) -> TrajectoryAttribution | ValueError:
    """Return the attribution of every step, or why steps are not attributed."""
    try:
        return trajectory_attribution(weights, states)
    except ValueError as refusal:
        return refusal


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


def _link_heads(text: str, layers: Sequence[int]) -> Markup:
    """Return a sentence as HTML in which every head with a card is a link to it."""
    from markupsafe import Markup, escape

    def link(match: re.Match[str]) -> str:
        name = match.group()
        return f'<a href="#{name}">{name}</a>' if int(match.group(1)) in layers else name

    return Markup(re.sub(r"\b[ED]?L(\d+)H\d+\b", link, str(escape(text))))


def _default_layers(weights: Weights) -> tuple[int, ...]:
    """The first, the middle and the last attention layer."""
    layers = weights.attention_layers
    return layers[0], layers[len(layers) // 2], layers[-1]


def _probed_words(
    weights: Weights, words: Sequence[str | int] | None, prompt: list[int]
) -> list[int]:
    """Token ids to probe: the words, else common nouns in either spelling, else the prompt."""
    if words is not None:
        return weights.tokens.look_up(words)[0]
    nouns = common_nouns_in_either_spelling(weights, leading_space=True)
    return list(dict.fromkeys(prompt) if nouns is None else nouns)[:N_PROBED]
