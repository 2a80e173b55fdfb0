"""The page's curves: what they hold, and that nothing but them runs on it."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re

import pandas as pd
import plotly.io
import pytest

from recbole_rawp.evaluation.records import COLUMNS
from recbole_rawp.report.pictures import interactive
from tests.test_page import Outline
from tests.test_report import measured, written


def figure(records, metric="ndcg@10"):
    """Return the figure of some records, as plotly reads and checks it."""
    return plotly.io.from_json(interactive.draw(pd.DataFrame(records, columns=COLUMNS), metric, bigger=True))


def traces(drawn, name, axis):
    """Return the values over the levels of the line with that name, in the panel of that axis."""
    return [trace for trace in drawn.data if trace.name == name and trace.yaxis == axis]


def test_each_line_is_the_mean_over_seeds_and_a_band_reaches_over_all_of_them():
    records = [*measured(seed=1), *measured(seed=2, factor=2.0)]
    drawn, values = figure(records), pd.DataFrame(records)
    values = values[(values["metric"] == "ndcg@10") & (values["defense"] == "none") & (values["threat"] == "fgsm")]
    by_level = values.groupby("level")["value"]
    (above,), (below,) = traces(drawn, "plain: fgsm", "y"), traces(drawn, "plain: fgsm", "y2")
    assert list(above.x) == [0.0, 0.1, 0.3] and list(above.y) == pytest.approx(list(by_level.mean()))
    assert list(below.y) == pytest.approx(list(by_level.mean() / 0.2))
    highest, lowest = [t for t in drawn.data if t.legendgroup == "plain: fgsm" and t.yaxis == "y" and not t.name]
    assert list(highest.y) == pytest.approx(list(by_level.max())) and lowest.fill == "tonexty"
    assert list(lowest.y) == pytest.approx(list(by_level.min()))
    share = by_level.mean()[0.1] / 0.2
    assert above.hovertext[1].startswith(
        f"plain: fgsm<br>radius 0.1: NDCG@10 {by_level.mean()[0.1]:.4f}, {share:.0%} of"
    )


def test_one_seed_has_no_band():
    assert all(trace.name for trace in figure(measured()).data)


def test_each_line_is_in_the_legend_once_and_is_hidden_in_both_panels():
    drawn = figure(measured())
    assert len([trace for trace in drawn.data if trace.showlegend]) == len(drawn.data) / 2 == 4
    for trace in drawn.data:
        assert [other.name for other in drawn.data if other.legendgroup == trace.legendgroup] == [trace.name] * 2


def test_colours_and_dashes_are_those_of_the_picture_for_print():
    drawn = figure(measured(attacks=("noise", "fgsm", "bim")))
    (noise,), (attack,) = traces(drawn, "plain: noise", "y"), traces(drawn, "plain: fgsm", "y")
    assert noise.line.color == attack.line.color == "#D55E00" and attack.line.dash == "solid"
    assert noise.line.dash == "dot" and traces(drawn, "plain: bim", "y")[0].line.dash == "dash"


def test_chance_is_drawn_where_it_is_not_zero():
    records = [row | {"metric": "auc", "value": 0.7} if row["metric"] == "ndcg@10" else row for row in measured()]
    assert [shape.y0 for shape in figure(records, "auc").layout.shapes] == [0.5]
    assert not figure(measured()).layout.shapes


def test_formats_are_bars_and_levels_of_many_magnitudes_are_evenly_spaced():
    stored = measured(attacks=("bim", "fgsm"), unit="format", granularity="row")
    bars = figure(
        [row | {"threat": {"bim": "int4", "fgsm": "int8"}[row["threat"]]} for row in stored if row["level"] < 0.3]
    )
    assert [(bar.type, bar.name) for bar in bars.data] == [("bar", "plain"), ("bar", "rawp")]
    assert bars.data[0].y == pytest.approx([math.exp(-0.5), math.exp(-0.3)]) and len(bars.data[0].x) == 2
    rates = figure(measured(attacks=("fgsm",), unit="bit error rate", granularity=""))
    assert rates.layout.xaxis.type == "category" and rates.data[0].x == ("0", "0.1", "0.3")


def test_names_stay_text():
    records = [*measured('<a href="https://x.org">x</a>', ("none",)), *measured("<i>", ("none",))]
    drawn = figure([row | {"threat": f"<b> {row['threat']}"} for row in records])
    for text in (part for trace in drawn.data for part in (trace.name, *trace.hovertext)):
        assert not re.search("<(?!br>)", text)


def test_no_script_runs_on_the_page_but_the_two_whose_hashes_it_names(tmp_path):
    written(tmp_path / "run", measured())
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    allowed = re.search('script-src ([^;"]*)', page).group(1).split()
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert allowed == [f"'sha256-{value}'" for value in hashes] and len(scripts) == 2
    assert "default-src 'none'" in page and "connect-src" not in page


def test_the_page_holds_the_figure_and_its_picture(tmp_path):
    written(tmp_path / "run", measured())
    (image,) = Outline((tmp_path / "run/report.html").read_text(encoding="utf-8")).of("img")
    stored = json.loads((tmp_path / "run/robustness.plotly.json").read_text(encoding="utf-8"))
    assert json.loads(image["data-figure"]) == stored and image["src"].startswith("data:image/svg+xml")
    assert len(plotly.io.read_json(tmp_path / "run/robustness.plotly.json").data) == 8
