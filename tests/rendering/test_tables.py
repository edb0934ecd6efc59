"""Tables for papers: tokens stay text in every format, and every file holds its citation."""

import re
import shutil
import subprocess
from io import StringIO

import pandas as pd
import pytest
from pyarrow import parquet

import tw_lens as tw
from tests.models import golden_bridge
from tw_lens.rendering import token_widget
from tw_lens.rendering.export.latex import escape_latex, latex_table
from tw_lens.rendering.export.tables import save_table

HOSTILE = "</script><img src=x onerror=alert(1)>"
PDFLATEX = shutil.which("pdflatex")
needs_tex = pytest.mark.skipif(PDFLATEX is None, reason="no TeX is installed and none could be")
TOKENS = [
    '\\{}$&#_%~^<>|"', "'`", "?`!`", "--", "---", ",,", "[red]", "*", "(1-2)", " dog ", "a  b",
    "  ", "", "a\nb", "\x00", "\u200b", "\\xe2\\x82", "%", "\\", "^^M", "\\end{tabular}", "=",
    "\u4f60\u597d", "\u05d0", "\U0001f426", "e\u0301", "\u00e9\u00df\u0152", "\u00f0\u00fe",
    "\ufffd", "\ud800", "\u202eabc\u202c", "a\u0300\u0301\u0302", "\U0001f468\u200d\U0001f469",
    "\U0010ffff", "\ufeff", "\r", "\t", "\x1b[31m", "^^@", "^^^^0041", "\\end{document}",
    "\\\\[1em]", "$$", "fi ffl", "``''", "<<>>", "##1", "\\input{x}", 
    "{" * 20, "W" * 5000, "\u4f60" * 400,
    *(chr(code) for code in range(0x20, 0x250)),
]  # fmt: skip


@pytest.fixture(scope="module")
def norms():
    return tw.token_norms(tw.read_weights(golden_bridge()))


LINE = f"tw_lens {tw.__version__} on golden-gpt2: TokenNorms, exact convention; arXiv 2309.07315"


def test_every_format_holds_its_citation(norms, tmp_path):
    top = norms.top(3)
    for suffix in ("csv", "json"):
        back = getattr(pd, f"read_{suffix}")(save_table(norms, tmp_path / f"t.{suffix}", table=top))
        assert back.columns.tolist() == [*top.columns, "cite"]
        assert set(back.cite) == {LINE}
    content = parquet.read_table(save_table(norms, tmp_path / "t.parquet", table=top))
    assert content.schema.metadata[b"cite"].decode() == LINE
    pd.testing.assert_frame_equal(content.to_pandas(), top)
    latex = save_table(norms, tmp_path / "t.tex", table=top).read_text()
    assert latex.startswith(f"% {LINE}\n")
    assert escape_latex(LINE) in latex.split(r"\caption")[1].split("\n")[0]
    markdown = save_table(norms, tmp_path / "t.md", table=top).read_text()
    assert markdown.endswith("TokenNorms, exact convention; arXiv 2309.07315\n")
    assert "golden-gpt2, exact, scaled" in markdown


def test_a_certificate_and_a_caveat_are_cited_too(tmp_path):
    certificate = tw.check(golden_bridge(), "w5 w6")
    assert tw.cite(certificate).endswith("on golden-gpt2: Certificate; arXiv 2309.07315")
    path = tw.trajectory(tw.read_weights(golden_bridge()), tw.read_states(golden_bridge(), "w5 w6"))
    assert "caveats: position 0." in save_table(path, tmp_path / "t.md").read_text()
    assert "passed" in save_table(certificate, tmp_path / "t.tex").read_text()


def test_the_whole_result_is_written_by_default(norms, tmp_path):
    assert len(pd.read_csv(save_table(norms, tmp_path / "t.csv"))) == len(norms.score)


def test_an_unknown_format_is_rejected_with_those_expected(norms, tmp_path):
    with pytest.raises(ValueError, match=r"unknown format '\.xls'; expected one of 'csv', 'json'"):
        save_table(norms, tmp_path / "t.xls")
    assert list(tmp_path.iterdir()) == []


def test_latex_escapes_every_special_character(tmp_path):
    table = pd.DataFrame({"token_string": ['\\{}$&#_%~^<>|"', "plain"], "score": [1.5, 2.0]})
    text = save_table(table, tmp_path / "t.tex", caption="50 % & more").read_text()
    row = next(line for line in text.splitlines() if line.endswith(r"& 1.5 \\"))
    bare = re.sub(
        r"\\text[a-z]+\{\}|\\[{}$&#_%]|\\texttt\{\\char34\}", "", row.removesuffix(r" & 1.5 \\")
    )
    assert bare == "" and r"50 \% \& more" in text


def test_latex_keeps_a_token_out_of_the_row_end_and_its_spaces_visible(tmp_path):
    # Row ends take arguments: `\\\\[red]` is a length and `\\\\*` is a starred row end.
    table = pd.DataFrame({"token_string": ["[red]", "*", " dog ", "a\nb"], "id": [1, 2, 3, 4]})
    text = save_table(table, tmp_path / "t.latex").read_text()
    starts = [line.split(" & ")[0] for line in text.splitlines() if line.endswith(r"\\")][1:]
    space = r"\textvisiblespace{}"
    assert starts == ["{[}red]", "{*}", f"{space}dog{space}", r"a\textbackslash{}nb"]
    assert r"\begin{tabular}{lr}" in text


def test_latex_writes_numbers_as_mathematics():
    text = latex_table(pd.DataFrame({"score": [-1.5, 1.25e-7, float("nan"), 3.0, float("-inf")]}))
    rows = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r"\\")]
    assert rows[1:] == ["$-1.5$", r"$1.25\cdot 10^{-7}$", "--", "3", r"$-\infty$"]


def test_latex_is_different_for_different_tokens():
    assert len({escape_latex(token) for token in TOKENS}) == len(set(TOKENS))
    assert escape_latex("--") == "-{}-" and escape_latex("\u4f60") == (
        "\\tokenchar{\u4f60}{\\textbackslash{}u4f60}"
    )


def compile_tex(tables, folder):
    """Run TeX twice, for the list of tables; return the PDF's size."""
    (folder / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,longtable}\\tracinglostchars=3\n"
        "\\begin{document}\n"
        + "\\clearpage\n".join(["\\listoftables", *tables])
        + "\\end{document}\n",
        encoding="utf-8",
    )
    for _ in range(2):
        process = subprocess.run(
            [str(PDFLATEX), "-halt-on-error", "-interaction=nonstopmode", "t.tex"],
            cwd=folder, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
        assert process.returncode == 0, process.stdout[-3000:]
    return (folder / "t.pdf").stat().st_size


@needs_tex
def test_latex_compiles_whatever_the_tokens_are(tmp_path):
    tables = [
        latex_table(
            pd.DataFrame({"token_string": pd.Series(chunk, dtype=object), "score": -1e-9}),
            caption="".join(token[:40] for token in chunk),
            comment="\n".join(chunk),
        )
        for chunk in (TOKENS[start : start + 40] for start in range(0, len(TOKENS), 40))
    ]
    assert compile_tex(tables, tmp_path) > 10_000


@needs_tex
def test_latex_of_every_result_compiles_however_long(tmp_path):
    from tests.analyses.test_results import results

    tables = [
        save_table(result, tmp_path / f"{name}.tex").read_text(encoding="utf-8")
        for name, result in results().items()
    ]
    assert {len(re.findall(r"longtable}", table)) for table in tables} == {0, 3}
    assert compile_tex(tables, tmp_path) > 10_000


def test_latex_breaks_over_pages_and_repeats_its_head(tmp_path):
    long = latex_table(pd.DataFrame({"a_b": range(41)}), caption="50 %")
    assert long.count(r"a\_b \\") == 2 and r"\caption{50 \%} \\" in long
    assert r"% Needs \usepackage{booktabs,longtable}." in long and r"\begin{table}" not in long
    assert "longtable" not in latex_table(pd.DataFrame({"a_b": range(40)}))


def test_markdown_keeps_its_columns_and_its_tokens(tmp_path):
    table = pd.DataFrame({"token_string": pd.Series(TOKENS, dtype=object), "score": 1.5})
    text = save_table(table, tmp_path / "t.md").read_text(encoding="utf-8")
    lines = text.rstrip("\n").split("\n")
    assert len(lines) == len(TOKENS) + 2
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3 for line in lines)
    assert r"| \\{}\$\&\#\_%\~^\<\>\|" in text and "| \u2423dog\u2423 |" in text


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_tables_come_back_as_they_were(suffix, tmp_path):
    table = pd.DataFrame({"token_string": [HOSTILE, " a,b\n", "\u05d0"], "score": [0.5, 2.0, -1.0]})
    path = save_table(table, tmp_path / f"t.{suffix}")
    pd.testing.assert_frame_equal(getattr(pd, f"read_{suffix}")(path), table)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_failing_write_leaves_nothing(norms, tmp_path):
    table = norms.top(3)
    table["object"] = [object(), 1, "mixed"]
    with pytest.raises(Exception, match="object"):
        save_table(table, tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


MISSING = pd.DataFrame(
    {
        "head": pd.Series([3, None], dtype="Int64"),
        "text": pd.Series(["a", None], dtype=object),
        "score": [0.5, float("nan")],
    }
)
SHOWN_MISSING = re.compile(r"<NA>|\bNA\b|\bnan\b|\bNaN\b|\bNone\b|\bNaT\b")


def test_missing_values_are_empty_or_a_dash(tmp_path):
    def lines(suffix):
        return save_table(MISSING, tmp_path / f"t.{suffix}").read_text().splitlines()

    assert lines("csv") == ["head,text,score", "3,a,0.5", ",,"]
    assert pd.read_json(StringIO("".join(lines("json")))).isna().loc[1].all()
    assert sum(line.count("null") for line in lines("json")) == 3
    assert [line for line in lines("tex") if line.endswith(r"\\")][1:] == [
        r"3 & a & 0.5 \\", r"-- & -- & -- \\",
    ]  # fmt: skip
    assert lines("md")[-2:] == ["| 3 | a | 0.5 |", "|  |  |  |"]
    assert r"\begin{tabular}{rlr}" in "".join(lines("tex"))
    back = parquet.read_table(save_table(MISSING, tmp_path / "t.parquet"))
    assert [column.null_count for column in back.columns[:2]] == [1, 1]


def test_no_result_shows_a_missing_value_as_text(tmp_path):
    from tests.analyses.test_results import results

    for name, result in results().items():
        table = result.to_dataframe()
        columns = [name for name in table if name not in ("token_string", "condition")]
        shown = pd.DataFrame(table[columns])
        for suffix in ("csv", "json", "tex", "md"):
            path = save_table(result, tmp_path / f"{name}.{suffix}", table=shown)
            body = path.read_text(encoding="utf-8")
            assert not SHOWN_MISSING.search(body), (name, suffix)


def test_every_result_is_cited_and_other_things_are_rejected():
    from tests.analyses.test_results import results

    for name, result in results().items():
        line = tw.cite(result)
        assert type(result).__name__ in line and result.model_name in line, name
    path = tw.trajectory(tw.read_weights(golden_bridge()), tw.read_states(golden_bridge(), "w5 w6"))
    for other in (token_widget(path), MISSING, path.plot(), "text"):
        with pytest.raises(TypeError, match=f"can be cited or saved; got {type(other).__name__}"):
            tw.cite(other)


@pytest.mark.parametrize(
    ("suffix", "start"),
    [
        ("CSV", "rank,"), ("Json", "["), ("PARQUET", "PAR1"), ("TEX", "% tw"), ("LaTeX", "% tw"),
        ("MD", "golden-gpt2"), ("Markdown", "golden-gpt2"),
    ],
)  # fmt: skip
def test_suffixes_in_any_case_choose_the_format(suffix, start, norms, tmp_path):
    path = save_table(norms, tmp_path / f"t.{suffix}", table=norms.top(2))
    assert path.read_bytes().startswith(start.encode())


@pytest.mark.parametrize("format", ["csv", "json", "parquet", "latex", "markdown"])
def test_every_format_can_be_named_in_any_case(format, norms, tmp_path):
    table = norms.top(2)
    named = save_table(norms, tmp_path / "t", table=table, format=format)
    upper = save_table(norms, tmp_path / "u", table=table, format=format.upper())
    assert named.read_bytes() == upper.read_bytes() != b""


def test_the_rows_of_a_dataframe_can_be_chosen_too(norms, tmp_path):
    whole, part = norms.to_dataframe(), norms.top(2)
    assert len(pd.read_csv(save_table(whole, tmp_path / "t.csv", table=part))) == 2
