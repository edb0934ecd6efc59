"""Neuron examples: where in text neurons fire, and how well their tokens predict it.

1. The prompts are run in batches; the stream that the layer's MLP reads gives every neuron's
   activation at every position, from the canonical form.
2. The largest local maxima of each neuron are selected, at most two with the same token.
3. The same neuron's activation at the point of each position's token is what a list of tokens
   predicts. Its correlation with the real activations is the faithfulness of the reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.analyses.neuron_points import require_neurons
from tw_lens.argument_kinds import require_positive
from tw_lens.arguments import checked
from tw_lens.canonical import MLP, LayerVocabulary, TokenPoints, token_points
from tw_lens.errors import Caveat
from tw_lens.progress import Progress
from tw_lens.reading import Prompt, read_resid_mid, read_weights
from tw_lens.results.token_source import token_source
from tw_lens.studies.batching import batches
from tw_lens.studies.neuron_examples_result import NeuronExample, NeuronExamples
from tw_lens.studies.prompts import PromptStream, progress_bar
from tw_lens.studies.top_activations import TopActivations, local_maxima, push_local_maxima

BATCH_SIZE = 8
VARIES = 1e-10  # of the mean square: less is rounding


class CorrelationSums:
    """Sums for the correlation of predicted and real values, column by column."""

    def __init__(self, columns: int) -> None:
        self.n = 0
        self._sums = torch.zeros(5, columns, dtype=torch.float64)

    def add(
        self,
        predicted: Float[Tensor, "positions columns"],
        real: Float[Tensor, "positions columns"],
    ) -> None:
        """Add some positions."""
        a, b = predicted.double(), real.double()
        self.n += len(a)
        self._sums += torch.stack([s.sum(0) for s in (a, b, a * a, b * b, a * b)])

    def correlation(self) -> Float[Tensor, " columns"]:
        """Return Pearson's r of every column; NaN where a side does not vary."""
        a, b, aa, bb, ab = self._sums / max(self.n, 1)
        vary_a, vary_b = (aa - a * a).clamp_min(0), (bb - b * b).clamp_min(0)
        known = (vary_a > VARIES * aa) & (vary_b > VARIES * bb)
        return torch.where(known, (ab - a * b) / (vary_a * vary_b).sqrt(), torch.nan).float()


@checked
def neuron_examples(
    model: Any,
    prompts: Iterable[Prompt],
    *,
    layer: int,
    neurons: Sequence[int],
    n_examples: int = 10,
    context: int = 8,
    first_position: int = 1,
    vocabulary: LayerVocabulary | None = None,
    progress: Progress = False,
) -> NeuronExamples:
    """Find the positions of text with the largest activations of neurons, and test their reading.

    Examples are local maxima of the absolute activation: positions that no other within `context`
    positions exceeds; at most two have the same token, and none the same token behind the same
    one. The activation of a gated neuron may be
    negative; it is given with its sign. `r` is the correlation over all positions between the real
    activation and that at the point of the position's token (from `vocabulary`, and from the
    embedding beside it): how well token lists predict what drives the neuron on this text. Use
    text that the vocabulary was not made from.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        prompts: texts, token ids, or a tokenizer's batches with `input_ids` and `attention_mask`.
        layer: index of the block.
        neurons: indices of neurons.
        n_examples: number of examples per neuron.
        context: number of tokens shown on either side of an example.
        first_position: earlier positions are excluded; position 0 often carries huge activations.
        vocabulary: points of the tokens at this layer, from `layer_vocabulary`; their embeddings
            by default. Positions whose token has no point are left out of `r`.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        IndexError: the layer or a neuron does not exist.
        UnsupportedModelError: the layer has no MLP of the canonical form, or no hook shows the
            stream that it reads.
        ValueError: no neuron, a count below 1, or no prompt has a position to measure.

    Example:
        >>> found = neuron_examples(model, ["w5 w6 w7", "w8 w9"], layer=1, neurons=[3])
        >>> found.n_prompts, found.n_positions
        (2, 5)

    Source: top-activating examples; the test of a reading by the activations that it predicts, as
    `faithfulness` does for heads.
    """
    require_positive("n_examples", n_examples)
    require_positive("context", context)
    stream, n_positions = PromptStream(model, prompts, first_position), 0
    weights = read_weights(model, device="cpu")
    mlp = weights.mlp(layer)
    chosen = torch.tensor(require_neurons(neurons, mlp))
    sources = [token_points(weights, layer, mlp.norm, own) for own in (vocabulary, None)]
    sums = [CorrelationSums(len(chosen)) for _ in sources]
    top = [TopActivations(n_examples) for _ in chosen]
    examples: list[dict[tuple[int, int], NeuronExample]] = [{} for _ in chosen]
    total, active = torch.zeros(2, len(chosen), dtype=torch.float64)
    with progress_bar(progress, prompts) as count:
        for batch in batches(stream, BATCH_SIZE):
            mids = read_resid_mid(model, weights, batch.tokens, layer)
            for mid, tokens, number in zip(mids, batch.tokens, batch.numbers, strict=True):
                values = _activations(mlp, mlp.norm.sphere(mid), chosen)
                _search(top, examples, values, tokens, number, chosen, context, first_position,
                        weights.tokens.strings(tokens.tolist()))  # fmt: skip
                real = values[first_position:]
                for source, own in zip(sources, sums, strict=True):
                    predicted, known = _at_tokens(mlp, source, tokens[first_position:], chosen)
                    own.add(predicted, real[known])
                n_positions += len(real)
                total += real.double().sum(0)
                active += (real > 0).double().sum(0)
            count(len(batch.numbers))
    stream.require_prompts()
    return NeuronExamples(
        model_name=weights.model_name,
        layer=layer,
        neurons=tuple(chosen.tolist()),
        examples=tuple(
            tuple(found[a.location] for a in one.activations())
            for one, found in zip(top, examples, strict=True)
        ),
        r=sums[0].correlation(),
        r_embedding=sums[1].correlation(),
        mean=(total / n_positions).float(),
        positive=(active / n_positions).float(),
        n_prompts=stream.n_prompts,
        n_positions=n_positions,
        n_tested=sums[0].n,
        token_source=token_source(vocabulary),
        caveats=(*weights.caveats, *_caveats(stream)),
    )


def _activations(
    mlp: MLP, y: Float[Tensor, "points d_model"], chosen: Int[Tensor, " neurons"]
) -> Float[Tensor, "points neurons"]:
    """Return the activations of some neurons at points of the sphere."""
    return mlp.activations(mlp.pre_activations_of_points(y), y)[:, chosen]


def _at_tokens(
    mlp: MLP,
    points: TokenPoints,
    tokens: Int[Tensor, " position"],
    chosen: Int[Tensor, " neurons"],
) -> tuple[Float[Tensor, "known neurons"], Bool[Tensor, " position"]]:
    """Return the activations at the tokens' points, and which tokens have one."""
    known = torch.ones(len(tokens), dtype=torch.bool)
    if points.mask is not None:
        known = points.mask[tokens]
    unique, place = tokens[known].unique(return_inverse=True)
    return _activations(mlp, points.gather(unique), chosen)[place], known


def _search(
    top: list[TopActivations],
    examples: list[dict[tuple[int, int], NeuronExample]],
    values: Float[Tensor, "position neurons"],
    tokens: Int[Tensor, " position"],
    number: int,
    chosen: Int[Tensor, " neurons"],
    context: int,
    first_position: int,
    strings: list[str],
) -> None:
    """Add the local maxima of one prompt to the lists, and the context of those that entered."""
    sizes = values.abs()
    maxima = local_maxima(sizes, reach=context, first_position=first_position)
    push_local_maxima(top, sizes, maxima, tokens, tokens, prompt=number)
    for i, one in enumerate(top):
        known, kept = examples[i], {}
        for activation in one.activations():
            prompt, position = activation.location
            if prompt != number:
                kept[prompt, position] = known[prompt, position]
                continue
            start = max(0, position - context)
            kept[prompt, position] = NeuronExample(
                neuron=int(chosen[i]),
                prompt=prompt,
                position=position,
                token_index=int(tokens[position]),
                token_string=strings[position],
                activation=float(values[position, i]),
                before=tuple(strings[start:position]),
                after=tuple(strings[position + 1 : position + 1 + context]),
            )
        examples[i] = kept


def _caveats(stream: PromptStream) -> tuple[Caveat, ...]:
    """Return the caveats on the prompts."""
    sentence = f"the highest positions of {stream.n_prompts} prompts may not be typical."
    return (*stream.caveats, *(Caveat("few prompts", sentence),) * stream.too_few)
