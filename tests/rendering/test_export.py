"""Figure files: the requested format, print size and type, offline, whole or absent."""

import contextlib
import re
import shutil
import struct
import zlib
from typing import Any

import pytest

import tw_lens as tw
from tests.models import golden_bridge
from tw_lens.rendering import FigureExportError, token_widget
from tw_lens.rendering.export.figure_files import _plotly_figure
from tw_lens.rendering.export.print_layout import (
    BODY,
    LEGEND_ROW,
    MIN_PANEL_HEIGHT,
    SMALL,
    TICKS,
    layout_of,
    print_layout,
)
from tw_lens.rendering.figures.style import MEASURE_LABELS

needs_chromium = pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("chromium-browser")),
    reason="Chromium is not installed and could not be",
)


@pytest.fixture(scope="module")
def projected():
    model = golden_bridge()
    weights, states = tw.read_weights(model), tw.read_states(model, "w5 w6 w7")
    return tw.trajectory(weights, states), tw.fit_projection(weights, states)


MATRICES = rb"(\S+) 0 0 -\S+ 0 \S+ cm\s+q\s+(\S+) 0 0 \S+ (\S+) (\S+) cm"


def pdf_placement(pdf: bytes) -> tuple[float, float, float]:
    """The scale of a page's figure, and its distance from the left and from the top."""
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        with contextlib.suppress(zlib.error):
            match = re.match(MATRICES, zlib.decompress(stream))
            if match:
                page, size, left, top = map(float, match.groups())
                return round(page * size, 4), left, top
    raise AssertionError("the PDF has no page")


@needs_chromium
@pytest.mark.filterwarnings("ignore")  # from the browser's driver at exit
def test_every_format_is_written_at_print_size(projected, tmp_path):
    path, projection = projected
    svg = tw.save_figure(path, tmp_path / "path.svg").read_text()
    width = re.search(r'width="([0-9.]+)', svg)
    assert width is not None and float(width.group(1)) == pytest.approx(3.3 * 96)
    assert "step angle" in svg and "http:" not in re.sub(r'xmlns[^=]*="[^"]*"', "", svg)
    pdf = tw.save_figure(path, tmp_path / "path.pdf", n_columns=2).read_bytes()
    assert pdf[:5] == b"%PDF-"
    assert pdf_placement(pdf) == (0.75, 0, 0)  # a pixel is 3/4 point; no margin
    png = tw.save_figure(path.plot(projection), tmp_path / "path.png", height=2.0).read_bytes()
    assert png[:4] == b"\x89PNG"
    assert struct.unpack(">II", png[16:24]) == (1267, 768)  # 3.3 by 2 inches at 384 dots
    assert len(png) > 20_000  # a scene with something in it
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".pdf", ".png", ".svg"]


def test_a_print_figure_has_small_type_and_no_controls(projected):
    path, projection = projected
    original = path.plot(projection)
    paper = print_layout(original, 1, None)
    layout = layout_of(paper)
    assert layout.font.size == BODY and not layout.sliders and not paper.frames
    assert not layout.updatemenus and "click" not in layout.title.text
    assert "trustworthiness" in layout.title.text.replace("<br>", " ")
    assert all(trace.visible != "legendonly" for trace in paper.data)
    assert "states at this layer" not in {trace.name for trace in paper.data}
    unchanged = layout_of(original)
    assert unchanged.sliders and original.frames and unchanged.font.size == 12


@pytest.mark.parametrize("columns", [1, 2])
def test_panels_titles_and_legend_do_not_overlap(projected, columns: int):
    path, _ = projected
    paper = print_layout(path.plot(measures=tuple(MEASURE_LABELS)), columns, None)
    layout = layout_of(paper)
    inner = layout.height - layout.margin.t - layout.margin.b
    axes: list[Any] = list(paper.select_yaxes())
    rows = sorted({tuple(axis.domain) for axis in axes}, reverse=True)
    assert len(rows) == -(-len(MEASURE_LABELS) // 2)
    lines = max(note.text.count("<br>") + 1 for note in layout.annotations)
    for (low, high), below in zip(rows, [*rows[1:], None], strict=True):
        assert (high - low) * inner >= MIN_PANEL_HEIGHT
        if below:  # the tick labels of this row and the titles of the next one
            assert (low - below[1]) * inner >= TICKS + lines * SMALL
    tops = {high for _, high in rows}
    assert len(layout.annotations) == len(MEASURE_LABELS)
    assert {note.y for note in layout.annotations} == tops
    assert layout.margin.t >= (layout.title.text.count("<br>") + 1) * BODY
    assert layout.margin.b >= 2 * LEGEND_ROW
    fixed = print_layout(path.plot(measures=tuple(MEASURE_LABELS)), columns, 11.0)
    assert layout_of(fixed).height == 11.0 * 96


def test_a_heat_map_labels_every_row_and_column():
    model = golden_bridge()
    weights, states = tw.read_weights(model), tw.read_states(model, "w5 w6 w7")
    layout = layout_of(print_layout(tw.trajectory_attribution(weights, states).plot(), 1, None))
    assert all(axis.nticks is None for axis in (layout.xaxis, layout.yaxis))


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("path.jpeg", {}, ValueError, "must be one of svg, png, pdf"),
        ("path", {}, ValueError, "must be one of svg, png, pdf"),
        ("path.svg", {"n_columns": 3}, ValueError, "n_columns must be 1 or 2, got 3"),
        (
            "path.svg",
            {"height": -1.0},
            ValueError,
            "height must be a positive number of inches, got -1.0",
        ),
        ("nowhere/path.svg", {}, FileNotFoundError, "does not exist"),
    ],
)
def test_bad_input_gets_one_sentence(projected, tmp_path, name, options, error, message):
    with pytest.raises(error, match=message):
        tw.save_figure(projected[0], tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_program_is_named(projected, tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    with pytest.raises(FigureExportError, match="no Chromium was found"):
        tw.save_figure(projected[0], tmp_path / "path.svg")
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(FigureExportError, match="kaleido is not installed"):
        tw.save_figure(projected[0], tmp_path / "path.svg")
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_and_a_plain_plotly_figure_have_print_layouts(projected):
    certificate = tw.check(golden_bridge(), "w5 w6")
    plain = projected[0].plot()
    assert _plotly_figure(plain) is plain
    title = layout_of(print_layout(_plotly_figure(certificate), 1, None)).title.text
    assert "passed" in title.replace("<br>", " ")


@needs_chromium
@pytest.mark.filterwarnings("ignore")  # from the browser's driver at exit
def test_a_certificate_is_saved_as_a_figure(tmp_path):
    certificate = tw.check(golden_bridge(), "w5 w6")
    assert "tolerance" in tw.save_figure(certificate, tmp_path / "c.SVG").read_text()


def test_something_without_a_figure_gets_one_sentence(projected, tmp_path):
    expected = "expects a plotly figure, a result or a certificate; got"
    for other in (token_widget(projected[0]), "path"):
        with pytest.raises(TypeError, match=f"{expected} {type(other).__name__}"):
            tw.save_figure(other, tmp_path / "w.svg")  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []
