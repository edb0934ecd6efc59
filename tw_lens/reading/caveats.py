"""Caveats of a model: conditions under which its readings hold, each in one sentence."""

from __future__ import annotations

from tw_lens.canonical import Block, HeadRouting, Readout, Vocabulary
from tw_lens.errors import Caveat


def caveats_of(
    block: Block,
    vocabulary: Vocabulary,
    readout: Readout,
    processed: tuple[str, ...],
    hybrid: bool,
) -> tuple[Caveat, ...]:
    """Return the caveats of a model, from one of its attention layers and its readout."""
    n_read, n_written = len(vocabulary), readout.W_U.shape[1]
    scores, output = block.attention_scores, block.attention_output
    conditions = {
        "rotary distance 0": (
            scores.rotary is not None,
            "W_QK is read with query and key at the same position, unless distance= is given.",
        ),
        "no position": (
            scores.rotary is None,
            "vocabulary points are embeddings without a position added.",
        ),
        "position bias": (
            scores.slopes is not None or scores.relative is not None,
            "scores of tokens leave out the bias that depends on their distance.",
        ),
        "source at embeddings": (
            block.source_norm is not None,
            "tokens of the source are read at their embeddings, and the encoder has moved them "
            "before cross-attention reads them: how well they predict its scores is not measured.",
        ),
        "query-key norm": (
            scores.q_norm is not None or scores.k_norm is not None,
            "scores are not bilinear: W_QK contains the norms' gains and leaves out each query's "
            "and key's own length; probes and recomputed scores include it.",
        ),
        "norm after rotation": (
            scores.norm_after_rotary and scores.q_norm is not None and scores.rotary is not None,
            "gains of the query-key norm act on rotated heads, so scores depend on both positions: "
            "tokens are read with the key at position 0.",
        ),
        "attention soft-cap": (
            scores.softcap is not None,
            "the spectrum of W_QK is that of the scores before the soft-cap.",
        ),
        "attention sink": (
            scores.sinks is not None,
            "a part of every head's attention goes to a sink that is no token.",
        ),
        "sparse attention": (
            scores.dense_up_to is not None,
            f"in prompts of more than {scores.dense_up_to} positions an indexer selects the keys; "
            "longer prompts are rejected.",
        ),
        "latent attention": (
            block.bottleneck_KV is not None,
            "W_QK and W_OV are composed through a normalised bottleneck: they leave out one "
            "divisor per position; the last dimensions of a key encode positions, not content.",
        ),
        "value norm": (
            block.v_norm is not None,
            "each value is divided by its own length, which W_OV leaves out.",
        ),
        "routed heads": (
            isinstance(output.gate, HeadRouting),
            "the query token chooses the experts whose heads write, and W_OV leaves out the weight "
            "(0 to 1) that it gives each; patterns of heads that are not chosen have no effect.",
        ),
        "output gate": (
            output.gate is not None and not isinstance(output.gate, HeadRouting),
            "W_OV leaves out the gate (0 to 1) with which the query token multiplies each value.",
        ),
        "post-norm": (
            output.norm is not None or output.z_norm is not None,
            "a head's output is divided by the length of the sum over heads: W_OV contains the "
            "gain only.",
        ),
        "normalised stream": (
            block.stream_norms is not None,
            "the residual stream is normalised after every sum: tokens are read as they enter the "
            "first block.",
        ),
        "stream read as it is": (
            not block.norm.normalises and block.stream_norms is None,
            "attention reads the residual stream without a norm: tokens have the length of their "
            "embeddings.",
        ),
        "hybrid": (hybrid, "only some layers have attention; the others are not read."),
        "logit soft-cap": (
            readout.softcap is not None,
            "readout scores are logits before the soft-cap, which keeps their order.",
        ),
        "no unembedding": (
            readout.is_embedding,
            "the model has no unembedding: tokens are read against its embeddings W_E.",
        ),
        "words in and out": (
            n_read != n_written,
            f"the model reads {n_read} words and writes {n_written}: a written word is printed as "
            "the token of its id, which fits only where both are in one order.",
        ),
        "language head": (
            readout.head is not None,
            "the model has a nonlinear layer between a state and its logits.",
        ),
        "norms folded": (
            "folded" in processed,
            "the norms' own gain and bias are gone (or were never trained); value biases may "
            "have moved into b_O.",
        ),
        "value biases moved": (
            "without value biases" in processed and "folded" not in processed,
            "value biases are zero while other biases are not: they were moved into b_O, and the "
            "output of a single head lacks its own.",
        ),
        "centred": (
            "centred" in processed,
            "embeddings have lost their mean, which every norm of the model removes.",
        ),
    }
    return tuple(Caveat(name, sentence) for name, (holds, sentence) in conditions.items() if holds)
