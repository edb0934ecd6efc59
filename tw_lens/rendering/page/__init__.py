"""Page: one self-contained HTML report about a model and a prompt."""

from tw_lens.rendering.page.report import report

__all__ = ["report"]
