"""The table of supported architectures, computed by running each of them.

`python -m tests.architectures.support` writes it into the README.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tw_lens as tw
from tests.zoo import architectures, at_hand, zoo_bridge
from tw_lens.canonical import Block, Weights

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- architectures: begin -->", "<!-- architectures: end -->"
PROMPT = list(range(3, 15))
EXACT = 2e-5
HUB, MOST = "its code is on a model hub", 90
COMMON_CAVEATS = {"rotary distance 0", "no position"}
# Encoder-decoders: two stacks with cross-attention between them.
TWO_STACKS = "stack of blocks"
NO_WORDS = ("it has no embed", "it has no W_E")


@dataclass(frozen=True)
class Row:
    """One architecture's outcome."""

    architecture: str
    outcome: str
    processed: str = ""
    norm: str = ""
    positions: str = ""
    attention: str = ""
    quantities: str = ""
    remarks: str = ""
    error: float = 0.0
    attribution_error: float = 0.0
    heads_separable: bool = True
    ablation_error: float = 0.0
    ablation_change: float = 1.0

    @property
    def kind(self) -> str:
        """The group in which the architecture is counted."""
        if self.outcome == "not bootable":
            return "not bootable"
        if TWO_STACKS in self.remarks:
            return "two stacks"
        if self.remarks.startswith(NO_WORDS):
            return "no words"
        return "no attention" if "no layer has attention" in self.remarks else "attention"


@cache
def row(architecture: str) -> Row:
    """Boot an architecture, certify it raw and processed, and return its row of the table."""
    if not at_hand(architecture):
        elsewhere = "its module is the user's own" if "Pretrain" in architecture else HUB
        return Row(architecture, "not bootable", remarks=elsewhere)
    try:
        model = zoo_bridge(architecture)
    except Exception as error:  # from a configuration, an import or an adapter
        return Row(architecture, "not bootable", remarks=_reason(error))
    try:
        weights = tw.read_weights(model)
        certificate = _checked(model)
        attribution = _attribution(model, weights)
        error, change = _ablation(model, weights)
    except tw.UnsupportedModelError as unsupported:
        return Row(architecture, "refused", remarks=unsupported.part)
    block = weights.block(weights.attention_layers[0])
    table = certificate.to_dataframe()
    quantities = [q for q in QUANTITIES if q in set(table.quantity)]
    caveats = [caveat.name for caveat in weights.caveats if caveat.name not in COMMON_CAVEATS]
    return Row(
        architecture,
        "exact" if certificate.max_rel_error < EXACT else "WRONG",
        processed=_processed(model),
        norm=_norm(block),
        positions=_positions(weights),
        attention=_attention(weights),
        quantities="all" if quantities == QUANTITIES else ", ".join(quantities),
        remarks=", ".join(caveats),
        error=certificate.max_rel_error,
        attribution_error=attribution.residual_error,
        heads_separable="heads" not in {caveat.name for caveat in attribution.caveats},
        ablation_error=error,
        ablation_change=change,
    )


QUANTITIES = ["q", "k", "v", "attn_scores", "attn_out", "resid", "logits"]


def _checked(model: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tw.check(model, PROMPT)


def _attribution(model: Any, weights: Weights) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tw.trajectory_attribution(weights, tw.read_states(model, PROMPT))


def _ablation(model: Any, weights: Weights) -> tuple[float, float]:
    """Ablate a head's maps; return the largest residual error and the smallest output change."""
    layer = weights.attention_layers[len(weights.attention_layers) // 2]
    results = []
    for circuit in ("QK", "OV"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            block = weights.block(layer)
            rank = (block.W_Q if circuit == "QK" else block.W_V).shape[-1]
            results.append(
                tw.direction_ablation(
                    model, [PROMPT], layer=layer, head=1, circuit=circuit,
                    directions=[range(rank)],
                )
            )  # fmt: skip
    error = max(result.residual_error for result in results)
    return error, min(float(result.effect.value[0, 0, 1]) for result in results)


def _processed(model: Any) -> str:
    """Certify a model after TransformerLens' own folding and centring; return the outcome."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.enable_compatibility_mode()
    except Exception:  # TransformerLens itself cannot process this one
        return "cannot be"
    return "exact" if _checked(model).max_rel_error < EXACT else "WRONG"


def _norm(block: Block) -> str:
    before = {"none": "none"}.get(block.norm.kind, block.norm.kind)
    after = ", post-norm of the stream" if block.stream_norms else ""
    return before + after + (", after attention too" if block.attention_output.norm else "")


def _positions(weights: Weights) -> str:
    kinds = []
    for layer in weights.attention_layers:
        block = weights.block(layer)
        attention_scores = block.attention_scores
        if attention_scores.rotary is not None:
            pairs = attention_scores.rotary.tables(1)[0].shape[-1]
            partial = "partial " if 2 * pairs < block.d_head else ""
            kinds.append(
                f"{partial}rotary{' (interleaved)' if attention_scores.rotary.interleaved else ''}"
            )
        elif attention_scores.slopes is not None:
            kinds.append("ALiBi")
        else:
            kinds.append("none in scores")
    return ", ".join(dict.fromkeys(kinds))


def _attention(weights: Weights) -> str:
    blocks = [weights.block(layer) for layer in weights.attention_layers]
    first = blocks[0]
    n_kv = first.W_K.shape[0]
    heads = "full" if n_kv == first.n_heads else "multi-query" if n_kv == 1 else "grouped"
    features = {
        "latent": first.bottleneck_KV is not None,
        "query-key norm": first.attention_scores.q_norm is not None,
        "soft-cap": first.attention_scores.softcap is not None,
        "sinks": first.attention_scores.sinks is not None,
        "window": any(block.attention_scores.window for block in blocks),
        "chunks": any(block.attention_scores.chunk for block in blocks),
        "gate": first.attention_output.gate is not None,
        "both ways": not first.attention_scores.causal,
    }
    return ", ".join([heads, *(name for name, present in features.items() if present)])


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "it needs a package for pictures"
    text = " ".join(str(error).split())
    return text if len(text) <= MOST else text[:MOST].rsplit(" ", 1)[0] + " ..."


def rows() -> list[Row]:
    """Return a row for every architecture of TransformerLens."""
    return [row(name) for name in architectures()]


def summary(table: list[Row]) -> str:
    """Return the counts in sentences."""
    attending = [r for r in table if r.kind == "attention"]
    exact = [r for r in attending if r.outcome == "exact"]
    n = {kind: sum(r.kind == kind for r in table) for kind in ("two stacks", "no words")}
    without = sum(r.kind == "no attention" for r in table)
    return (
        f"Of {len(table)} names TransformerLens 4.3.0 has an adapter for, "
        f"{sum(r.outcome == 'not bootable' for r in table)} cannot be booted from a configuration "
        f"alone. Of the {len(attending)} others with attention in one stack of blocks, "
        f"**{len(exact)} are exact** ({100 * len(exact) / len(attending):.0f} %) and "
        f"{len(attending) - len(exact)} refused by name. Refused are also {n['two stacks']} with "
        f"two stacks (encoder-decoders), {without} without attention that TransformerLens hooks, "
        f"and {n['no words']} of pictures or sound, without words. Wrong: "
        f"{sum('WRONG' in (r.outcome, r.processed) for r in table)}."
    )


def markdown(table: list[Row]) -> str:
    """Return the counts and the table in the README's format."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for r in sorted(table, key=lambda r: (ORDER.index(r.outcome), r.architecture.lower())):
        cells = (r.architecture, r.outcome, r.processed, r.norm, r.positions, r.attention,
                 r.quantities, r.remarks.replace("|", "\\|"))  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    body = "\n".join(lines)
    fold = "<details>\n<summary>Every architecture</summary>\n\n"
    return f"{BEGIN}\n{summary(table)}\n\n{fold}{body}\n\n</details>\n{END}"


COLUMNS = ("architecture", "outcome", "processed", "norm", "positions", "attention", "certified",
           "remarks")  # fmt: skip
ORDER = ["WRONG", "exact", "refused", "not bootable"]


def written() -> str:
    """Return the part of the README that this module writes."""
    text = README.read_text()
    return text[text.index(BEGIN) : text.index(END) + len(END)]


if __name__ == "__main__":
    README.write_text(README.read_text().replace(written(), markdown(rows())))
