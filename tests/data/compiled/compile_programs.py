"""Compile RASP programs with Tracr into the fixtures of this folder: weights, labels and the truth.

Run in an environment of its own (`pip install tracr-pypi==1.0.0`); JAX is no part of this project's
tests. For every attention head of a program the truth is read from the program, not from the
weights: the families that its selector compares, the pairs of values for which the predicate holds,
the family that it reads and the one that it writes. A selector's width is measured with a head that
reads whether the token is BOS.

Source: Tracr, Lindner et al. 2023 (arXiv 2301.05062), Apache-2.0.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tracr.compiler import basis_inference, compiling, lib, nodes, rasp_to_graph
from tracr.rasp import rasp

BOS, LETTERS = "BOS", ("a", "b", "c", "d")


def shifted() -> rasp.SOp:
    """Return the previous token."""
    return rasp.Aggregate(
        rasp.Select(rasp.indices, rasp.indices, lambda k, q: k == q - 1), rasp.tokens
    ).named("shifted")


def first() -> rasp.SOp:
    """Return the first token, at every position."""
    select = rasp.Select(rasp.indices, rasp.indices, lambda k, q: k == 0)
    return rasp.Aggregate(select, rasp.tokens).named("first")


def swapped() -> rasp.SOp:
    """Return the tokens with neighbours exchanged: 1 0 3 2."""
    select = rasp.Select(rasp.indices, rasp.indices, lambda k, q: k == (q ^ 1))
    return rasp.Aggregate(select, rasp.tokens).named("swapped")


def twice_shifted() -> rasp.SOp:
    """Return the token two positions back, by two heads in a row."""
    again = rasp.Select(rasp.indices, rasp.indices, lambda k, q: k == q - 1)
    return rasp.Aggregate(again, shifted()).named("twice_shifted")


def behind_letter() -> rasp.SOp:
    """Return the token that stands where the previous token is an `a` (induction of one letter)."""
    select = rasp.Select(shifted(), rasp.tokens, lambda k, q: k == "a" and q == "a")
    return rasp.Aggregate(select, rasp.tokens).named("behind_letter")


def successor() -> rasp.SOp:
    """Return the place of the letter that follows in the alphabet, as a token."""
    following = dict(zip(LETTERS, LETTERS[1:] + LETTERS[:1], strict=True))
    select = rasp.Select(rasp.tokens, rasp.tokens, lambda k, q: k == following.get(q))
    return rasp.Aggregate(select, rasp.tokens).named("successor")


NUMBERS = (1, 2, 3, 4)
PROGRAMS = {
    "reverse": (lambda: lib.make_reverse(rasp.tokens), LETTERS, 5),
    "histogram": (lib.make_hist, LETTERS, 5),
    "sort": (lambda: lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=5, min_key=1), NUMBERS, 5),
    "sort unique": (lambda: lib.make_sort_unique(rasp.tokens, rasp.tokens), NUMBERS, 5),
    "length": (lib.make_length, LETTERS, 5),
    "shifted": (shifted, LETTERS, 6),
    "first": (first, LETTERS, 6),
    "swapped": (swapped, LETTERS, 6),
    "twice shifted": (twice_shifted, LETTERS, 6),
    "behind letter": (behind_letter, LETTERS, 6),
    "successor": (successor, LETTERS, 6),
}


def truth_of(program: rasp.SOp, vocab: set, n: int) -> list[dict]:
    """Return what every head of a program does, from its graph."""
    extracted = rasp_to_graph.extract_rasp_graph(program)
    graph = extracted.graph
    basis_inference.infer_bases(graph, extracted.sink, vocab, n)
    heads = []
    for label, node in graph.nodes.items():
        expr = node[nodes.EXPR]
        if not isinstance(expr, rasp.Aggregate | rasp.SelectorWidth):
            continue
        selector = expr.selector
        assert isinstance(selector, rasp.Select), label
        queries, keys = selector.queries.label, selector.keys.label
        pairs = [
            [str(q), str(k)]
            for q in sorted(graph.nodes[queries][nodes.VALUE_SET], key=str)
            for k in sorted(graph.nodes[keys][nodes.VALUE_SET], key=str)
            if selector.predicate(k, q)
        ]
        is_width = isinstance(expr, rasp.SelectorWidth)
        heads.append(
            {
                "queries": queries,
                "keys": keys,
                "pairs": pairs,
                "reads": rasp.tokens.label if is_width else expr.sop.label,
                "writes": f"{label}_selector_width_attn_output" if is_width else label,
            }
        )
    return heads


def main() -> None:
    """Compile every program and write one npz file each."""
    here = Path(__file__).parent
    for name, (make, letters, n) in PROGRAMS.items():
        program = make()
        model = compiling.compile_rasp_to_model(
            program, vocab=set(letters), max_seq_len=n, compiler_bos=BOS
        )
        config = model.model_config
        header = {
            "heads": truth_of(program, set(letters), n),
            "labels": model.residual_labels,
            "output": program.label,
            "num_layers": config.num_layers,
            "num_heads": config.num_heads,
            "key_size": config.key_size,
            "mlp_hidden_size": config.mlp_hidden_size,
            "causal": config.causal,
            "inputs": {str(k): v for k, v in model.input_encoder.encoding_map.items()},
            "outputs": {str(k): v for k, v in model.output_encoder.encoding_map.items()},
        }
        arrays = {
            f"{module}|{part}": np.asarray(value, dtype=np.float32)
            for module, parts in model.params.items()
            for part, value in parts.items()
        }
        # What the compiled model itself computes, for a check of the conversion.
        prompt = [BOS, *[letters[i] for i in (2, 0, 1, 0)][: n - 1]]
        result = model.apply(prompt)
        header["prompt"] = [str(token) for token in prompt]
        header["decoded"] = [str(token) for token in result.decoded]
        arrays["residual"] = np.asarray(result.residuals[-1][0], dtype=np.float32)
        arrays["header"] = np.array(json.dumps(header))
        path = here / f"{name.replace(' ', '_')}.npz"
        np.savez_compressed(path, **arrays)
        print(f"{name}: {len(header['heads'])} heads, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
