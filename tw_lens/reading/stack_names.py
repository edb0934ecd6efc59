"""Names of an encoder-decoder's parts and hooks, and those of a model with one stack of blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, get_args

StackName = Literal["encoder", "decoder", "cross"]
STACKS: tuple[StackName, ...] = get_args(StackName)
# In a decoder's block: the parts of TransformerLens, and those of a model with one stack.
DECODER_PARTS = {"self_attn": "attn", "ln2": "cross_ln", "ln2_post": "cross_ln_post"}
DECODER_PARTS |= {"ln3": "ln2", "ln3_post": "ln2_post"}
CROSS_PARTS = {"cross_attn": "attn", "ln2": "ln1", "ln2_post": "ln1_post"}
PARTS: dict[StackName, dict[str, str]] = {
    "encoder": {}, "decoder": DECODER_PARTS, "cross": CROSS_PARTS,
}  # fmt: skip
NOT_IN_CROSS = ("self_attn", "ln3", "ln3_post", "mlp")
BEFORE, MIDDLE, AFTER = "hook_resid_pre", "hook_resid_mid", "hook_resid_post"
MIDDLES = (MIDDLE, "hook_resid_mid2")
SOURCE_HOOK = "encoder.hook_resid_post"  # the encoder's final state, in runs of the decoder
BLOCK_HOOK = re.compile(r"(encoder|decoder)_blocks\.(\d+)\.(.+)")


def side_of(stack: StackName) -> str:
    """Return the side that a stack's blocks are on."""
    return "encoder" if stack == "encoder" else "decoder"


def shown_names(name: str, stack: StackName, *, n_source_layers: int, post_norm: bool) -> list[str]:
    """Return the names under which a stack shows a hook of the model; none for most hooks.

    Args:
        name: TransformerLens' name of the hook, `decoder_blocks.3.self_attn.hook_q`.
        stack: the stack.
        n_source_layers: number of the encoder's blocks.
        post_norm: whether norms act on the residual stream itself.
    """
    found, side = BLOCK_HOOK.fullmatch(name), side_of(stack)
    if found is None:
        part, _, hook = name.partition(".")
        if part.startswith(f"{side}_"):
            return [f"{part.removeprefix(f'{side}_')}.{hook}"]
        return [name] if part == "unembed" and side == "decoder" else []
    if found[1] != side:
        is_source = found[1] == "encoder" and found[2] == str(n_source_layers - 1)
        return [SOURCE_HOOK] if is_source and found[3] == AFTER else []
    block = f"blocks.{found[2]}"
    return [f"{block}.{inner}" for inner in _in_block(found[3], stack, post_norm)]


def _in_block(inner: str, stack: StackName, post_norm: bool) -> Iterator[str]:
    """Yield the names of a hook in its block.

    The stream between the parts of a decoder's block is hooked where a norm reads or writes it.
    """
    part, _, hook = inner.partition(".")
    if stack == "cross":
        if inner == ("ln1.hook_out" if post_norm else "ln2.hook_in"):
            yield BEFORE
        if part in CROSS_PARTS:
            yield f"{CROSS_PARTS[part]}.{hook}"
        return
    if stack == "decoder" and inner == ("ln2.hook_out" if post_norm else "ln3.hook_in"):
        yield MIDDLE
    if stack == "encoder" or inner not in MIDDLES:
        shown = PARTS[stack].get(part, part)
        yield f"{shown}.{hook}" if hook else shown
