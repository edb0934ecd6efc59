"""What is true of a model's readings only under a condition, each said in one sentence."""

from __future__ import annotations

from tw_lens.canonical import Block, Readout
from tw_lens.errors import Caveat


def caveats_of(
    block: Block, readout: Readout, processed: tuple[str, ...], hybrid: bool
) -> tuple[Caveat, ...]:
    """The caveats of a model, from one of its attention layers and its readout."""
    attention_scores, attention_output = block.attention_scores, block.attention_output
    said = {
        "rotary distance 0": (
            attention_scores.rotary is not None,
            "W_QK is read for a query and a key at the same position, unless distance= says more.",
        ),
        "no position": (
            attention_scores.rotary is None,
            "vocabulary points are embeddings without a position added.",
        ),
        "position bias": (
            attention_scores.slopes is not None,
            "scores of words leave out the bias that grows with distance.",
        ),
        "query-key norm": (
            attention_scores.q_norm is not None or attention_scores.k_norm is not None,
            "scores are not bilinear: W_QK holds the norms' gains and leaves out each query's and "
            "key's own length; probes and recomputed scores include it.",
        ),
        "norm after rotation": (
            attention_scores.norm_after_rotary
            and attention_scores.q_norm is not None
            and attention_scores.rotary is not None,
            "gains of the query-key norm act on rotated heads, so scores depend on both positions: "
            "words are read with the key at position 0.",
        ),
        "attention soft-cap": (
            attention_scores.softcap is not None,
            "the spectrum of W_QK is that of the scores before the cap.",
        ),
        "attention sink": (
            attention_scores.sinks is not None,
            "a part of every head's attention goes to a sink that is no word.",
        ),
        "sparse attention": (
            attention_scores.dense_up_to is not None,
            f"in prompts of more than {attention_scores.dense_up_to} positions an indexer chooses the keys; "
            "longer prompts are refused.",
        ),
        "latent attention": (
            block.bottleneck_KV is not None,
            "W_QK and W_OV are composed through a normalised bottleneck: they leave out one "
            "divisor per position; the last dimensions of a key carry positions, not content.",
        ),
        "value norm": (
            block.v_norm is not None,
            "each value is divided by its own length, which W_OV leaves out.",
        ),
        "output gate": (
            attention_output.gate is not None,
            "W_OV leaves out the gate (0 to 1) that the attending word puts on each value.",
        ),
        "post-norm": (
            attention_output.norm is not None or attention_output.z_norm is not None,
            "what a head adds is divided by the length of all heads' sum: W_OV holds the gain "
            "only.",
        ),
        "normalised stream": (
            block.stream_norms is not None,
            "the stream is normalised after every sum: words are read as they enter the first "
            "block.",
        ),
        "stream read as it is": (
            not block.norm.normalises and block.stream_norms is None,
            "attention reads the stream without a norm: words have the length of their embeddings.",
        ),
        "hybrid": (hybrid, "only some layers attend; the others are not read."),
        "logit soft-cap": (
            readout.softcap is not None,
            "readout scores are logits before the cap, which keeps their order.",
        ),
        "no unembedding": (
            readout.is_embedding,
            "the model has no unembedding: words are read against its embeddings W_E.",
        ),
        "language head": (
            readout.head is not None,
            "the model puts a nonlinear layer between a state and its words.",
        ),
        "norms folded": (
            "folded" in processed,
            "the norms' own gain and bias are gone (or were never trained); value biases may "
            "have moved into b_O.",
        ),
        "value biases moved": (
            "without value biases" in processed and "folded" not in processed,
            "value biases are zero beside others that are not: they were moved into b_O, and what "
            "a single head writes lacks its own.",
        ),
        "centred": (
            "centred" in processed,
            "embeddings have lost their mean, which no norm of the model sees.",
        ),
    }
    return tuple(Caveat(name, sentence) for name, (holds, sentence) in said.items() if holds)
