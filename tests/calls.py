"""Check calls of the public interface in code that is shown but not executed."""

import ast
import inspect
import re
from collections.abc import Iterator

import tw_lens as tw


def bad_calls(source: str) -> Iterator[str]:
    """Yield uses of `tw.NAME` that do not exist or take no such keyword."""
    python = re.sub(r"^(\s*)[!%].*$", r"\1pass", source, flags=re.MULTILINE)  # notebook commands
    for node in ast.walk(ast.parse(python)):
        if (name := public_name(node)) and not hasattr(tw, name):
            yield f"tw.{name} does not exist"
        elif isinstance(node, ast.Call) and (name := public_name(node.func)) and hasattr(tw, name):
            known = inspect.signature(getattr(tw, name)).parameters
            yield from (f"{name} takes no {k.arg}=" for k in node.keywords if k.arg not in known)


def public_name(node: ast.AST) -> str | None:
    """Return NAME of the expression `tw.NAME`."""
    is_public = isinstance(node, ast.Attribute) and ast.unparse(node.value) == "tw"
    return node.attr if is_public else None
