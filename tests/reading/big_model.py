"""A model larger than the memory allowed for reading it: created on disk and read from there.

`python -m tests.reading.big_model make FOLDER LAYERS D_MODEL`, then `read FOLDER`: each in a
process of its own, so that the memory of one is not counted in the other. `read` prints as JSON,
in bytes: the model's size, and the peak of resident memory above the start of reading, for the
weights of every block and for the certificate.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any


class Peak:
    """The peak resident memory of this process since the start, sampled continuously."""

    def __init__(self) -> None:
        import psutil

        self._process, self._done = psutil.Process(), threading.Event()
        self._start = self._highest = self._process.memory_info().rss
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._highest = max(self._highest, self._process.memory_info().rss)

    def reached(self) -> int:
        """Return the peak so far, above the start."""
        return self._highest - self._start


def make(folder: str, n_layers: int, d_model: int) -> None:
    """Save a Llama with random weights in shards."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=d_model, intermediate_size=4 * d_model, num_hidden_layers=n_layers,
        num_attention_heads=d_model // 64, num_key_value_heads=d_model // 64, vocab_size=997,
        max_position_embeddings=64,
    )  # fmt: skip
    config.architectures = ["LlamaForCausalLM"]
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="100MB")


def boot(folder: str) -> Any:
    """Boot the saved model with every weight on disk."""
    import torch
    from transformers import AutoModelForCausalLM

    from tests.models import as_bridge

    hf_model = AutoModelForCausalLM.from_pretrained(
        folder, device_map={"": "disk"}, offload_folder=f"{folder}/away", dtype=torch.float32,
        attn_implementation="eager",
    )  # fmt: skip
    return as_bridge(hf_model, "big-llama")


def read(folder: str) -> dict[str, float]:
    """Return the sizes and peaks of reading every block, then of certifying the model."""
    import tw_lens as tw

    model = boot(folder)
    peak = Peak()
    weights = tw.read_weights(model)
    for layer in range(weights.n_layers):
        _ = weights.block(layer).A_Q
    reading = peak.reached()
    error = tw.check(model, [1, 2, 3, 4]).max_rel_error
    return {
        "model": 4 * sum(p.numel() for p in model.original_model.parameters()),
        "readout": reading,
        "certifying": peak.reached(),
        "max_rel_error": error,
    }


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        print(json.dumps(read(sys.argv[2])))
