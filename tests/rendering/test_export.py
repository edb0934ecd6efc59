"""Figures in files: the format asked for, a paper's size and type, offline, whole or absent."""

import contextlib
import re
import shutil
import struct
import zlib

import pytest

import tw_lens as tw
from tests.models import golden_bridge
from tw_lens.rendering import FigureExportError
from tw_lens.rendering.export.print_layout import (
    BODY,
    FLATTEST,
    LEGEND_ROW,
    SMALL,
    TICKS,
    print_layout,
)
from tw_lens.rendering.figures.style import MEASURE_LABELS

needs_chromium = pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("chromium-browser")),
    reason="Chromium is not installed and could not be",
)


@pytest.fixture(scope="module")
def walk():
    model = golden_bridge()
    weights, states = tw.read_weights(model), tw.read_states(model, "w5 w6 w7")
    return tw.trajectory(weights, states), tw.fit_projection(weights, states)


def placed(pdf: bytes) -> tuple[float, float, float]:
    """How large a page's picture is drawn, and how far from the left and from the top."""
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        with contextlib.suppress(zlib.error):
            drawn = zlib.decompress(stream)
            found = re.match(rb"(\S+) 0 0 -\S+ 0 \S+ cm\s+q\s+(\S+) 0 0 \S+ (\S+) (\S+) cm", drawn)
            if found:
                page, size, left, top = map(float, found.groups())
                return round(page * size, 4), left, top
    raise AssertionError("no page was found")


@needs_chromium
@pytest.mark.filterwarnings("ignore")  # of the browser's driver, at its end
def test_every_format_is_written_in_the_papers_size(walk, tmp_path):
    path, projection = walk
    svg = tw.save_figure(path, tmp_path / "walk.svg").read_text()
    width = float(re.search(r'width="([0-9.]+)', svg).group(1))
    assert width == pytest.approx(3.3 * 96) and "step angle" in svg and "http:" not in re.sub(
        r'xmlns[^=]*="[^"]*"', "", svg
    )  # fmt: skip
    pdf = tw.save_figure(path, tmp_path / "walk.pdf", n_columns=2).read_bytes()
    assert pdf[:5] == b"%PDF-" and placed(pdf) == (
        0.75,
        0,
        0,
    )  # a pixel is 3/4 point; from the edge
    png = tw.save_figure(path.plot(projection), tmp_path / "walk.png", height=2.0).read_bytes()
    assert png[:4] == b"\x89PNG"
    assert struct.unpack(">II", png[16:24]) == (1267, 768)  # 3.3 by 2 inches at 384 dots
    assert len(png) > 20_000  # a scene with something in it
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".pdf", ".png", ".svg"]


def test_a_papers_figure_has_small_type_and_nothing_to_click(walk):
    path, projection = walk
    drawn = path.plot(projection)
    paper = print_layout(drawn, 1, None)
    assert paper.layout.font.size == BODY and not paper.layout.sliders and not paper.frames
    assert not paper.layout.updatemenus and "click" not in paper.layout.title.text
    assert "trustworthiness" in paper.layout.title.text.replace("<br>", " ")
    assert all(trace.visible != "legendonly" for trace in paper.data)
    assert "the words at this layer" not in {trace.name for trace in paper.data}
    assert drawn.layout.sliders and drawn.frames and drawn.layout.font.size == 12  # unchanged


@pytest.mark.parametrize("columns", [1, 2])
def test_panels_titles_and_legend_have_room_of_their_own(walk, columns: int):
    path, _ = walk
    paper = print_layout(path.plot(measures=tuple(MEASURE_LABELS)), columns, None)
    inner = paper.layout.height - paper.layout.margin.t - paper.layout.margin.b
    places = {tuple(axis.domain) for axis in paper.select_yaxes()}
    rows = sorted(places, reverse=True)
    assert len(rows) == -(-len(MEASURE_LABELS) // 2)
    lines = max(note.text.count("<br>") + 1 for note in paper.layout.annotations)
    for (low, high), below in zip(rows, [*rows[1:], None], strict=True):
        assert (high - low) * inner >= FLATTEST
        if below:  # the numbers of this row and the titles of the next one
            assert (low - below[1]) * inner >= TICKS + lines * SMALL
    tops = {high for _, high in rows}
    assert len(paper.layout.annotations) == len(MEASURE_LABELS)
    assert {note.y for note in paper.layout.annotations} == tops
    assert paper.layout.margin.t >= (paper.layout.title.text.count("<br>") + 1) * BODY
    assert paper.layout.margin.b >= 2 * LEGEND_ROW
    fixed = print_layout(path.plot(measures=tuple(MEASURE_LABELS)), columns, 11.0)
    assert fixed.layout.height == 11.0 * 96


def test_a_heat_map_names_every_row_and_column(walk):
    model = golden_bridge()
    moved = tw.trajectory_attribution(tw.read_weights(model), tw.read_states(model, "w5 w6 w7"))
    paper = print_layout(moved.plot(), 1, None)
    assert all(axis.nticks is None for axis in (paper.layout.xaxis, paper.layout.yaxis))


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("walk.jpeg", {}, ValueError, "none of svg, png, pdf"),
        ("walk", {}, ValueError, "none of svg, png, pdf"),
        ("walk.svg", {"n_columns": 3}, ValueError, "n_columns=3"),
        ("walk.svg", {"height": -1.0}, ValueError, "height=-1.0"),
        ("nowhere/walk.svg", {}, FileNotFoundError, "does not exist"),
    ],
)
def test_bad_input_gets_one_sentence(walk, tmp_path, name, options, error, words):
    with pytest.raises(error, match=words):
        tw.save_figure(walk[0], tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named(walk, tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    with pytest.raises(FigureExportError, match="no Chromium was found"):
        tw.save_figure(walk[0], tmp_path / "walk.svg")
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(FigureExportError, match="kaleido is not installed"):
        tw.save_figure(walk[0], tmp_path / "walk.svg")
    assert list(tmp_path.iterdir()) == []
