"""AntiBERTy, a BERT of antibody sequences, read from its package's files; nothing is imported.

Its classifiers of species, chain and grafting and its pooler are left out: the masked language
model does not use them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

# The heavy chain of the package's own example, one residue per token.
HEAVY_CHAIN = (
    "EVQLVQSGPEVKKPGTSVKVSCKASGFTFMSSAVQWVRQARGQRLEWIGWIVIGSGNTNYAQKFQERVTITRDMSTSTAYMELSS"
    "LRSEDTAVYYCAAPYCSSISCNDGFDIWGQGTMVTVS"
)


def pretrained(class_name: str, **options: Any) -> Any:
    """Return the trained model as a class of transformers, with attention that shows its pattern.

    What the class has beyond the language model (a classifier of pairs) is not trained.
    """
    import transformers

    folder = str(_folder() / "AntiBERTy_md_smooth")
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # of the parts that are left out
    try:
        cls = getattr(transformers, class_name)
        return cls.from_pretrained(folder, attn_implementation="eager", **options).eval()
    finally:
        transformers.logging.set_verbosity(level)


def tokenizer() -> Any:
    from transformers import BertTokenizer

    return BertTokenizer(str(_folder() / "vocab.txt"), do_lower_case=False)


def residues(sequence: str = HEAVY_CHAIN) -> torch.Tensor:
    """Return the tokens of a sequence between [CLS] and [SEP]; `_` is a masked residue."""
    spaced = " ".join("[MASK]" if letter == "_" else letter for letter in sequence)
    return torch.tensor(tokenizer()(spaced)["input_ids"])


def _folder() -> Path:
    found = importlib.util.find_spec("antiberty")
    assert found is not None, "pip install --no-deps antiberty==0.1.3"
    return Path(found.submodule_search_locations[0]) / "trained_models"
