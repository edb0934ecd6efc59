"""Printed tables: they fit the terminal, cut nothing, and look like the reference pictures."""

import re
from io import StringIO

import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

import tw_lens as tw
from tests import terminal_pictures
from tests.models import golden_bridge
from tests.terminal_pictures import COMMANDS, PROMPTS, WIDTHS, file_of, picture
from tw_lens.rendering import terminal_tables
from tw_lens.rendering.export.terminal_columns import lists_as_rows, number_cells

HINT = "python -m tests.terminal_pictures renews the pictures"
MISSING = re.compile(r"<NA>|\bNA\b|\bnan\b|\bNaN\b|\bNone\b|\bNaT\b|\u2205")


def printed(result, table, width=80, wide=False):
    """The tables as the terminal shows them, and their headers word by word."""
    console = Console(width=width, file=StringIO(), record=True)
    tables = terminal_tables(result, table, width=width, wide=wide)
    for part in tables:
        console.print(part)
    columns = [column for part in tables if isinstance(part, Table) for column in part.columns]
    return console.export_text(), [str(column.header) for column in columns]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text(PROMPTS)
    return file


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_print_the_reference_pictures(name, width, prompts):
    text = picture(COMMANDS[name], width, prompts)
    assert text == file_of(name, width).read_text(encoding="utf-8"), HINT
    assert max(map(len, text.splitlines())) <= width and "\u2026" not in text
    assert "\x1b" not in text


def test_every_reference_picture_is_of_a_command():
    files = {file_of(name, width) for name in COMMANDS for width in WIDTHS}
    assert set(terminal_pictures.FOLDER.iterdir()) == files


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_tables_of_every_result_fit_and_cut_no_header(width, wide):
    from tests.analyses.test_results import results

    for name, result in results().items():
        text, headers = printed(result, result.to_dataframe(), width, wide)
        lines = text.splitlines()
        words = {word for header in headers for word in header.split() if len(word) <= 20}
        assert max(map(len, lines)) <= width and "\u2026" not in text, name
        assert words <= set(text.split()), name


def test_no_result_shows_a_missing_value_as_text():
    from tests.analyses.test_results import results

    for name, result in results().items():
        table = result.to_dataframe()
        rest = table.drop(columns=["condition"], errors="ignore")
        text, _ = printed(tw.cite, rest, width=400)
        assert not MISSING.search(text), name


def test_a_list_is_one_row_with_its_tokens_side_by_side():
    weights = tw.read_weights(golden_bridge())
    probe = tw.head_probe(weights, layer=1, words=[5, 6], circuit="OV", k=4)
    rows = lists_as_rows(probe.to_dataframe())
    assert len(rows) == len(probe.components) * 2
    first = probe.to_dataframe().head(4)
    assert rows.tokens.iloc[0] == "  ".join(first.token_string)
    assert rows.best_score.iloc[0] == first.score.iloc[0]
    norms = tw.token_norms(weights).top(3)
    assert lists_as_rows(norms) is norms


def test_a_trajectory_shows_readouts_and_then_measures():
    model = golden_bridge()
    path = tw.trajectory(tw.read_weights(model), tw.read_states(model, "w5 w6 w7"))
    text, _ = printed(path, path.to_dataframe())
    readouts, measures = text.split("Measures of the last position")
    for layer, label in enumerate(path.labels):
        row = next(line for line in readouts.splitlines() if line.startswith(label))
        tops = [path.readout(layer, position)[0] for position in range(len(path.token_strings))]
        assert row.split() == [label, *tops]
        assert any(line.startswith(label) for line in measures.splitlines())


def test_tokens_are_no_markup_and_their_outer_spaces_visible():
    table = pd.DataFrame({"token_string": ["[red]x", " dog"], "score": [1.0, 2.0]})
    text, _ = printed(None, table)
    assert "[red]x" in text and "\u2423dog" in text


def test_a_text_longer_than_the_terminal_is_wrapped_and_whole():
    table = pd.DataFrame({"token_string": ["x" * 150, "y"], "score": [1.0, 2.0]})
    text, _ = printed(None, table, width=60)
    assert text.count("x") == 150 and max(map(len, text.splitlines())) <= 60


def test_more_rows_than_fit_a_screen_are_named():
    table = pd.DataFrame({"score": range(61)})
    assert "First 60 of 61 rows" in printed(None, table)[0]
    assert "First 60" not in printed(None, table, wide=True)[0]


@pytest.mark.parametrize(
    ("numbers", "cells"),
    [
        ([17.034, 3.7], ["17.03", "3.70"]),
        ([225.16, -0.5], ["225.2", "-0.5"]),
        ([0.12345, 0.0, 4e-5], ["0.123", "0.000", "4e-05"]),
        ([4.716e-7, 9.5e-5], ["4.72e-07", "9.50e-05"]),
        ([1.0, 250.0], ["1", "250"]),
        ([0.5, float("nan")], ["0.500", ""]),
        ([0.0], ["0"]),
        ([float("inf"), 1.5], ["inf", "1.500"]),
        ([3, None], ["3", ""]),
        ([2.5e7], ["2.50e+07"]),
        ([0.9996, 0.5], ["1.000", "0.500"]),
    ],
)
def test_numbers_of_a_column_have_equal_decimals(numbers, cells):
    assert number_cells(numbers) == cells


def test_intervals_stand_beside_their_estimates():
    table = pd.DataFrame(
        {"value": [0.5, 0.25], "low": [0.4, None], "high": [0.6, None], "n_low": [1, 2]}
    )
    text, headers = printed(None, table)
    assert headers == ["value [95 % interval]", "n low"]
    assert "0.500 [0.400, 0.600]" in text and "0.250 " in text
