"""Findings: what the page's results say about this model, one plain sentence each.

Every number comes from a result that the page shows. A result that is missing, or that has nothing
to say, gives no sentence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from tw_lens.analyses import HeadAtlas, Trajectory, TrajectoryAttribution
from tw_lens.analyses.null_directions import CIRCUIT_SIDES
from tw_lens.analyses.step_parts import is_head
from tw_lens.canonical.head_faithfulness import CIRCUIT_ROWS
from tw_lens.reading import Certificate
from tw_lens.rendering.figures.null_markers import SYMBOLS
from tw_lens.rendering.page.faithfulness_text import by_layer
from tw_lens.results.arguments import CIRCUITS, SIDE_NAMES
from tw_lens.results.base import component_label, plural
from tw_lens.results.token_lists import SIGNIFICANCE
from tw_lens.results.token_source import TokenSource
from tw_lens.studies import HEAD_KINDS, HeadKinds, TrajectoryAlignment
from tw_lens.studies.head_kinds_result import SHARE, WRITES

QUANTITIES = {
    "q": "queries", "k": "keys", "v": "values", "attn_scores": "attention scores",
    "attn_out": "attention outputs", "mlp_pre": "MLP inputs", "mlp_out": "MLP outputs",
    "resid": "residual stream", "logits": "logits",
}  # fmt: skip
QUANTITIES |= {
    f"cross_{name}": f"{QUANTITIES[of]} of cross-attention"
    for name, of in {"q": "q", "k": "k", "v": "v", "attn_scores": "attn_scores", "out": "attn_out"}
    .items()
}  # fmt: skip
KINDS = {
    "previous token": ("attend to the previous token", "attends to the previous token", SHARE),
    "induction": (
        "attend to what followed the same token before",
        "attends to what followed the same token before", SHARE,
    ),
    "copying": (
        "raise the logits of the tokens that they read",
        "raises the logits of the tokens that it reads", WRITES,
    ),
}  # fmt: skip
"""What heads of a kind do, what one head does, and the least score of the kind in use."""
HEADS_OF = {"H": "attention", "X": "cross-attention"}
NAMED = 4


@dataclass(frozen=True)
class Finding:
    """One sentence about the model: its topic, the text, and the section that holds the numbers.

    `failed` marks what the reader must know before reading on.
    """

    topic: str
    text: str
    anchor: str
    failed: bool = False


def find(
    certificate: Certificate,
    source: TokenSource,
    atlas: HeadAtlas,
    kinds: HeadKinds,
    path: Trajectory,
    attribution: TrajectoryAttribution | None,
    alignment: TrajectoryAlignment | None = None,
) -> tuple[Finding, ...]:
    """Return the findings, the certificate first."""
    found: list[Finding | None] = [
        exactness(certificate),
        faithfulness(source),
        *(kind_in_use(kinds, kind) for kind in KINDS),
        movement(path, attribution),
        above_null(atlas),
        None if alignment is None else successor(alignment),
    ]
    return tuple(one for one in found if one is not None)


def exactness(certificate: Certificate) -> Finding:
    """Return which quantities agree with the running model, and how closely."""
    text = (
        f"{compared_quantities(certificate)} were recomputed from the form that this page uses; on "
        f"{len(certificate.tokens)} tokens the largest relative error against the running model is "
        f"{certificate.max_rel_error:.0e} (tolerance {certificate.tolerance:.0e})."
    )
    text = text[0].upper() + text[1:]
    if certificate.passed:
        return Finding("The numbers are the model's own", text, "certificate")
    text += " Do not rely on the numbers below."
    return Finding("The numbers are not the model's own", text, "certificate", failed=True)


def compared_quantities(certificate: Certificate) -> str:
    """Return the quantities of a certificate in words, with the layers of those not in all."""
    layers: dict[str, set[int]] = {}
    for one in certificate.comparisons:
        layers.setdefault(one.quantity, set()).add(one.layer)
    n = max(len(of) for of in layers.values())
    names = [
        QUANTITIES[quantity]
        + ("" if len(of) == n or quantity == "logits" else f" (of {len(of)} of {n} layers)")
        for quantity, of in layers.items()
    ]
    return listed(names)


def faithfulness(source: TokenSource) -> Finding | None:
    """Return how well tokens predict the heads: the mean over heads, and the extreme layers."""
    topic = "How well tokens predict heads"
    found = source.faithfulness
    if found is None or not bool(found.value.isfinite().any()):
        text = f"Not measured: this page reads {source.sentence([], CIRCUITS)}."
        if source.name == "embedding":
            text += " Behind the first layer, heads read states that have left the embeddings."
        return Finding(topic, text.replace(", faithfulness not measured", ""), "heads")
    certain = []
    for row, circuit in enumerate(CIRCUIT_ROWS):
        known = found.low[row].isfinite() & found.floor[row].isfinite()
        above = int((found.low[row] > found.floor[row])[known].sum())
        certain.append(f"{above} of {plural(int(known.sum()), 'head')} ({circuit})")
    text = (
        f"Mean faithfulness over all {plural(len(found.heads), 'head')}, on {found.n_prompts} "
        f"held-out prompts: {'; '.join(by_layer(found, circuit) for circuit in CIRCUITS)}. The "
        f"95 % interval of r lies above the head's own floor in {listed(certain)}."
    )
    return Finding(topic, text, "heads")


def kind_in_use(kinds: HeadKinds, kind: str) -> Finding | None:
    """Return which heads show a kind in use, and how many of them their weights give away."""
    row = HEAD_KINDS.index(kind)
    if kinds.from_use is None or not bool(kinds.from_use[row].isfinite().any()):
        return None
    several, one, least = KINDS[kind]
    score, topic = kinds.from_use[row], f"{kind[0].upper()}{kind[1:]} heads".replace(" t", "-t")
    names = [component_label(layer, head, kinds.model_name) for layer, head in kinds.heads]
    order = score.nan_to_num(-1.0).argsort(descending=True).tolist()
    shown, claimed = kinds.shown_in_use()[row], kinds.claimed()[row]
    n = int(shown.sum())
    best = [f"{names[i]} ({float(score[i]):.2f})" for i in order[: min(NAMED, max(1, n))]]
    if n > NAMED:
        best.append(f"{n - NAMED} more")
    on = f"with a score of {least:g} or more on {kinds.n_sequences} repeated random sequences"
    text = (
        f"{n} of {len(names)} heads {one if n == 1 else several} {on}: {listed(best)}."
        if n
        else f"No head {one} {on}; {best[0]} comes closest."
    )
    return Finding(topic, f"{text} {_from_weights(shown, claimed)}", "kinds")


def _from_weights(shown: Bool[Tensor, " heads"], claimed: Bool[Tensor, " heads"]) -> str:
    n, both = int(claimed.sum()), int((shown & claimed).sum())
    if not n:
        return "The weights alone claim none."
    return f"The weights alone claim {n}, of which {both} {'shows' if both == 1 else 'show'} it."


def movement(path: Trajectory, attribution: TrajectoryAttribution | None) -> Finding | None:
    """Return the layers that turn the prompt's states most, and what turns them."""
    angles = path.values["step_angle"][:-1]
    angles = angles[:, min(1, angles.shape[1] - 1) :]
    means = angles.nanmean(1)
    if not bool(means.isfinite().any()):
        return None
    order = means.nan_to_num(-1.0).argsort(descending=True).tolist()
    first, *others = [layer for layer in order if bool(means[layer].isfinite())][:3]
    turned = angles[first][angles[first].isfinite()]
    spread = ""
    if len(turned) > 1:
        low, high = (float(end) for end in turned.aminmax())
        spread = f", {low:.2f} to {high:.2f} over {len(turned)} tokens"
    text = (
        f"On this prompt layer {first} turns the states most: by {float(means[first]):.2f} rad on "
        f"average{spread}{_cause(attribution, first)}"
    )
    if others:
        then = [
            f"layer {layer} ({float(means[layer]):.2f} rad{_cause(attribution, layer)})"
            for layer in others
        ]
        text += f"; then {listed(then)}"
    if attribution is not None:
        groups = [_groups(attribution, layer) for layer in range(len(attribution.share))]
        both = [g for g in groups if g.keys() >= {"attention", "MLP"}]
        larger = sum(g["MLP"] > g["attention"] for g in both)
        if both:
            text += f". The MLP's share exceeds that of attention in {larger} of {len(both)} layers"
    return Finding("What moves words", f"{text}.", "trajectory")


def _groups(attribution: TrajectoryAttribution, layer: int) -> dict[str, float]:
    """Return the mean shares of a layer's step: attention (all heads), MLP, bias, rest."""
    shares: dict[str, float] = {}
    for name, share in zip(
        attribution.components, attribution.mean_share()[layer].tolist(), strict=True
    ):
        if share == share:
            group = HEADS_OF.get(name[0], name) if is_head(name) else name
            shares[group] = shares.get(group, 0.0) + share
    return shares


def _cause(attribution: TrajectoryAttribution | None, layer: int) -> str:
    groups = {} if attribution is None else _groups(attribution, layer)
    if not groups:
        return ""
    largest = max(groups, key=groups.__getitem__)
    return f", {100 * groups[largest]:.0f} % of it by {'the ' * (largest != 'attention')}{largest}"


def above_null(atlas: HeadAtlas) -> Finding | None:
    """Return which sides of the heads' leading directions have lists above the strictest null."""
    above, chance, sizes = [], [], set()
    for circuit, side in CIRCUIT_SIDES:
        rows = [i for i, entry in enumerate(atlas.entries) if entry[2] == circuit]
        count = getattr(atlas, side).count_above(rows)
        if count is not None:
            text = f"{circuit} {SIDE_NAMES[circuit, side]} ({count})"
            (above if count.above_chance else chance).append(text)
            sizes.add(count.n)
    if not sizes:
        return None
    level = f"{100 * SIGNIFICANCE:.0f} %"
    expected = f"{SIGNIFICANCE * min(sizes):.0f} of {min(sizes)} ({level})"
    text = (
        f"{SYMBOLS['vocabulary']} marks the token lists of heads' leading directions that are more "
        f"coherent than {100 * (1 - SIGNIFICANCE):.0f} % of random directions, isotropic and with "
        f"the vocabulary's covariance; by chance at most {expected if len(sizes) == 1 else level}."
    )
    test = f"(one-sided binomial test, p \u2264 {SIGNIFICANCE:g})"
    if above:
        text += f" There are more {test} for {listed(above)}"
        text += f", not for {listed(chance)}." if chance else "."
    else:
        text += f" There are not more {test} for {listed(chance)}."
    return Finding("Which readings stand above chance", text, "atlas")


def successor(alignment: TrajectoryAlignment) -> Finding:
    """Return how the angle to the next state changes over many prompts, against the controls."""
    text = f"Over {alignment.n_prompts} prompts, {alignment.claim('next state', 'middle')}."
    return Finding("Alignment with the next word", text, "prompts")


def listed(texts: Iterable[str]) -> str:
    """Return texts as a list in a sentence: "a, b and c"."""
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last
