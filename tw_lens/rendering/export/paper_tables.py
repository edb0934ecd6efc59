"""Paper tables: every table, list and figure of the paper for one model, in a folder.

1. Reject a folder that cannot be made, and layers, words or a prompt that do not exist.
2. Compute the paper's questions one by one, in both conventions where weights are raw.
3. Write tables (CSV), lists (text), LaTeX tables, figures (HTML) and an index into a new folder
   beside its place, and rename it when it is complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tw_lens.analyses.common_nouns import common_nouns_in_either_spelling
from tw_lens.analyses.projection import METHODS, Method
from tw_lens.argument_kinds import require_choices
from tw_lens.arguments import checked
from tw_lens.canonical import States, Weights
from tw_lens.errors import Caveat
from tw_lens.files import require_new_folder, write_folder_atomically
from tw_lens.progress import Progress, steps
from tw_lens.reading import Prompt, read_states, read_weights
from tw_lens.rendering.export.paper_files import planned_files, write_files
from tw_lens.results.arguments import Convention
from tw_lens.studies.paper_parts import PaperPart, PaperSettings
from tw_lens.studies.paper_questions import N_STEPS, paper_parts
from tw_lens.studies.paper_result import PaperTables

PROMPT = "To kill two birds with one stone"


@checked
def paper_tables(
    model: Any,
    folder: str | Path,
    *,
    prompt: Prompt = PROMPT,
    layers: Sequence[int] | None = None,
    words: Sequence[str | int] | None = None,
    n: int = 20,
    k: int = 5,
    methods: Sequence[Method] = METHODS,
    progress: Progress = False,
) -> PaperTables:
    """Compute every table and figure of the paper for a model, and write them into a folder.

    - Tokens: embedding distances; token norms with and without the final norm's gain and bias.
    - Heads of the chosen layers: words through `W_QK` and `W_OV`, the tokens that the biases
      favour, singular values, and singular vectors as tokens.
    - The prompt: measures of its trajectory, and its projections.

    Everything that depends on the convention is computed in the published one, as the paper's
    experiments do, and in the exact one; on processed weights in the exact one only. Tokens are
    read at their embeddings in both, as in the paper. What the model does not have (biases, for
    example) is left out and named in the index.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        folder: a new or an empty folder; the folder that it is in must exist.
        prompt: a text or token ids, for the trajectory; the paper's sentence by default.
        layers: layers to read; by default the first, middle and last with attention (GPT-2: 0, 5,
            11, as in the paper).
        words: words to probe (single tokens or ids); by default a hundred common nouns in the
            published spelling, without a leading space.
        n: number of leading singular vectors.
        k: tokens per list.
        methods: projections, of "pca" and "umap".
        progress: True shows a bar; a function is called with a sentence at each step.

    Returns:
        The tables by name, and the files with the question that each answers. `README.md` in the
        folder has the same list, with the model, versions, conventions and caveats.

    Raises:
        FileExistsError: the folder holds files; nothing is overwritten.
        FileNotFoundError, NotADirectoryError, PermissionError: the folder cannot be made.
        IndexError: a layer or a token id does not exist.
        UnsupportedModelError, ValueError: no word is a single token, an unknown method; see
            `read_weights` and `read_states`.

    Example:
        >>> result = paper_tables(model, "paper", words=[5, 38], layers=[0], methods=["pca"])
        >>> result.table("embedding_distances").setting.tolist()
        ['original', 'centered', 'scaled', 'centered_scaled']

    Source: arXiv 2309.07315.
    """
    folder = Path(folder)
    require_new_folder(folder)
    methods = require_choices("methods", methods, METHODS)
    with steps(progress, total=N_STEPS + len(methods) + 2, unit="step") as step:
        step("Reading the weights")
        weights = read_weights(model)
        states = read_states(model, prompt)
        chosen = weights.require_layers(_default_layers(weights) if layers is None else layers)
        for layer in chosen:
            weights.block(layer)  # refuses a layer without attention
        index, about_words = _words(weights, words, states)
        conventions, refused = _conventions(weights)
        settings = PaperSettings(conventions, chosen, index, n, k, methods)
        parts = tuple(paper_parts(weights, states, settings, step))
        found = tuple(part for part in parts if len(part.table))
        files = planned_files(found)
        result = PaperTables(
            model_name=weights.model_name,
            architecture=weights.architecture,
            fingerprint=weights.fingerprint,
            folder=folder,
            layers=chosen,
            conventions=conventions,
            words=tuple(weights.tokens.strings(index)),
            prompt=states.token_strings,
            files=tuple(planned.file for planned in files),
            tables={part.name: part.table for part in found},
            refused=(*refused, *(sentence for part in parts for sentence in part.refused)),
            caveats=(*about_words, *_caveats(parts)),
        )
        step("Writing the folder")
        write_folder_atomically(folder, lambda made: write_files(result, files, made))
    return result


def _default_layers(weights: Weights) -> tuple[int, ...]:
    """The first, the middle and the last attention layer: the paper's 0, 5 and 11 of GPT-2."""
    layers = weights.attention_layers
    return layers[0], layers[(len(layers) - 1) // 2], layers[-1]


def _words(
    weights: Weights, words: Sequence[str | int] | None, states: States
) -> tuple[tuple[int, ...], tuple[Caveat, ...]]:
    """Return the token ids to probe, and which they are: words, common nouns, or the prompt.

    Raises:
        IndexError: a token id does not exist.
        ValueError: none of the given words is a single token.
    """
    if words is not None:
        index, dropped = weights.tokens.look_up(words)
        sentence = f"{len(dropped)} given words are no single token: {', '.join(dropped)}."
        return tuple(dict.fromkeys(index)), (Caveat("words", sentence),) if dropped else ()
    nouns = common_nouns_in_either_spelling(weights, leading_space=False)
    if nouns is not None:
        dropped = f"; dropped: {', '.join(nouns.dropped)}" if nouns.dropped else ""
        sentence = f"{nouns.headline()}{dropped}. The list is this package's, not the paper's."
        return nouns.token_index, (Caveat("words", sentence),)
    sentence = "No common noun is a single token; the prompt's tokens are probed."
    return tuple(dict.fromkeys(states.tokens.tolist())), (Caveat("words", sentence),)


def _conventions(weights: Weights) -> tuple[tuple[Convention, ...], tuple[str, ...]]:
    """Return the conventions that the weights have, and why the published one is missing."""
    try:
        weights.require_unprocessed('convention="published"')
    except ValueError as refusal:
        return ("exact",), (str(refusal),)
    return ("published", "exact"), ()


def _caveats(parts: Sequence[PaperPart]) -> Iterator[Caveat]:
    """Yield the caveats of all results, each once."""
    results = (result for part in parts for result in part.results)
    yield from dict.fromkeys(caveat for result in results for caveat in result.caveats)
