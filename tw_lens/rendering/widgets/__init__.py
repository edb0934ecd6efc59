"""Widgets: CircuitsVis components for notebooks and the page, offline."""

from tw_lens.rendering.widgets.circuitsvis import Widget, attention_widget, token_widget
from tw_lens.rendering.widgets.direction_examples import examples_widget

__all__ = ["Widget", "attention_widget", "examples_widget", "token_widget"]
