"""The benchmark of growth: its figures, tables and pictures, and a savefile in small.

tests/slow has the loads that take longer.
"""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from support.namespaces import require

sys.path.insert(0, str(Path(__file__).parent))

import growth
import growth_table
import plots
from figures import CurveSet, Figure, Figures, Point, has_loss, merge, slope_of

BENCH = Path(__file__).with_name("growth.py")
SVG = "{http://www.w3.org/2000/svg}"


def make_point(size: int, **costs: float) -> Point:
    return Point(size, 1000, [Figure(tool, [cost]) for tool, cost in costs.items()])


def make_set(*points: Point) -> CurveSet:
    return CurveSet("Live <&>", "flows", "packet", list(points))


@pytest.mark.parametrize("power", [0, 0.5, 1, -1])
def test_the_slope_of_a_power_of_the_size_is_its_exponent(power: float) -> None:
    curve = [(0, 7.0), *((size, 3.0 * size**power) for size in (10, 100, 5000))]
    assert slope_of(curve) == pytest.approx(power, abs=1e-9)


def test_a_curve_of_one_positive_size_has_no_slope() -> None:
    assert slope_of([(0, 1.0), (10, 2.0)]) is None


def test_a_new_figure_replaces_that_of_its_load_and_size_alone() -> None:
    before = Figures("old", {"a": make_set(make_point(1, x=1), make_point(5, x=5))})
    new = {"a": make_set(make_point(9, x=9), make_point(5, x=6)), "b": make_set(make_point(1, x=1))}
    merged = merge(before, "new", new)
    assert merged.host == "new"
    assert [(point.size, point.cost_of("x")) for point in merged.sets["a"].points] == [
        (1, 1),
        (5, 6),
        (9, 9),
    ]
    assert merged.sets["b"] == new["b"]
    assert merge(None, "new", merged.sets).sets == merged.sets


@pytest.mark.parametrize(
    ("figure", "loss"),
    [
        (Figure("hogpipe", [3.0]), "dearer than nethogs"),
        (Figure("hogpipe", [1.0], dropped=0.25), "dropped 25.00 %"),
        (Figure("hogpipe", [1.0], right=0.75), "25.00 % not right"),
        (Figure("hogpipe", remark="it broke"), "it broke"),
        (Figure("hogpipe", [2.0], right=1.0, dropped=0.0), "-"),
    ],
)
def test_a_row_names_its_loss(figure: Figure, loss: str) -> None:
    point = Point(1, 1000, [figure, Figure("nethogs", [2.0])])
    assert growth_table.rows_of(point)[0][-1] == loss
    assert has_loss(figure) == (figure.dropped == 0.25 or figure.right == 0.75)


def test_the_curves_on_a_page_are_replaced_in_the_block_of_their_set() -> None:
    point = Point(5, 10, [Figure("tcpdump", [2.0]), Figure("hogpipe", [4.0], dropped=0.5)])
    page = "a\n<!-- growth: live -->\nold\n<!-- end -->\nb\n<!-- growth: other -->\nc\n<!-- end -->"
    fresh = growth_table.refresh(page, {"live": make_set(point)})
    assert "old" not in fresh
    assert "| hogpipe              | 2.00x (4.00) † | -     |" in fresh
    assert fresh.endswith("<!-- end -->\nb\n<!-- growth: other -->\nc\n<!-- end -->")
    assert growth_table.refresh(fresh, {"live": make_set(point)}) == fresh


def test_the_page_and_its_pictures_are_those_of_the_kept_figures() -> None:
    figures = growth.read_figures(growth.FIGURES)
    assert figures is not None
    docs = growth.FIGURES.parents[1]
    page = (docs / "performance.md").read_text()
    assert growth_table.refresh(page, figures.sets) == page
    shown = re.findall(r"<!-- growth: ([\w-]+) -->", page)
    assert shown
    for name in shown:
        assert (docs / f"growth-{name}.svg").read_text() == plots.draw(figures.sets[name])
        assert f"](growth-{name}.svg)" in page


def test_ratios_come_before_costs_and_empty_columns_are_left_out() -> None:
    text = growth_table.render(make_set(make_point(1, tcpdump=2, hogpipe=4)))
    assert "| flows | tool    | / tcpdump | us a packet |" in text
    assert "| 1     | hogpipe | 2.00      | 4.00        |" in text
    assert "nethogs" not in text
    assert "right %" not in text


@pytest.mark.parametrize("sizes", [(1, 100, 50_000), (0, 10_000, 30_000), (0,), (7,)])
def test_a_picture_names_each_curve_and_marks_each_figure(sizes: tuple[int, ...]) -> None:
    costs = {"tcpdump": 0.07, "hogpipe": 0.6, "hogpipe, ledger": 0.6, "nethogs": 21.0}
    picture = ET.fromstring(plots.draw(make_set(*(make_point(size, **costs) for size in sizes))))
    texts = [one.text or "" for one in picture.iter(f"{SVG}text")]
    ends = [text for text in texts if text.split(":")[0] in costs]
    assert len(ends) == len(costs)
    assert all((": slope " in text) == (len(sizes) > 1) for text in ends)
    assert len(list(picture.iter(f"{SVG}circle"))) == len(costs) * len(sizes)
    assert {f"{size:,}" for size in sizes} <= set(texts)
    style = picture.find(f"{SVG}style")
    assert style is not None
    assert "prefers-color-scheme: dark" in (style.text or "")


def test_names_of_curves_do_not_overlap_and_stay_in_the_picture() -> None:
    costs = dict.fromkeys(plots.COLOURS, 1.0)
    picture = ET.fromstring(plots.draw(make_set(make_point(1, **costs))))
    heights = sorted(
        float(one.get("y", "")) for one in picture.iter(f"{SVG}text") if one.text in costs
    )
    gaps = [later - sooner for sooner, later in pairwise(heights)]
    assert min(gaps) >= plots.LABEL_HEIGHT - 0.2
    assert plots.TOP < heights[0] < heights[-1] < plots.HEIGHT


def test_losses_are_hollow_and_explained() -> None:
    point = Point(1, 1000, [Figure("hogpipe", [1.0], dropped=0.5), Figure("tcpdump", [1.0])])
    text = plots.draw(make_set(point))
    assert text.count('<circle class="hollow') == text.count('<circle class="mark') == 1
    assert plots.LOSS_TEXT in text


def test_a_set_without_figures_is_a_picture_that_says_so() -> None:
    point = Point(1, 0, [Figure("nethogs", remark="it did not start")])
    assert "no figures" in plots.draw(make_set(point))
    assert "it did not start" in growth_table.render(make_set(point))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["lives"], "no load lives; there are: all, live, "),
        (["live", "--tools", "hog"], "no tool hog; there are: tcpdump, "),
        (["live", "--sizes", "1,x"], "invalid read_numbers value: '1,x'"),
    ],
)
def test_wrong_words_are_refused(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        growth.parse_arguments(words)
    assert refused.value.code == 2
    assert text in capsys.readouterr().err


def test_a_savefile_in_small_has_figures_tables_and_a_picture(tmp_path: Path) -> None:
    require("tcpdump")
    path = tmp_path / "figures.json"
    words = ["savefiles", "savefiles-unmatched", "--sizes", "10", "--packets", "1000"]
    done = subprocess.run(
        [sys.executable, BENCH, *words, "--json", path, "--plots", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    matched, unmatched = json.loads(path.read_text())["sets"].values()
    for point in matched["points"] + unmatched["points"]:
        assert (point["size"], point["done"]) == (10, 1000)
        dump, hogpipe = point["figures"]
        assert (dump["tool"], hogpipe["tool"]) == ("tcpdump", "hogpipe")
        assert hogpipe["right"] == 1
        assert hogpipe["peak_bytes"] > 0
        assert hogpipe["start_seconds"] > 0
    ET.parse(tmp_path / "growth-savefiles.svg")
    ET.parse(tmp_path / "growth-savefiles-unmatched.svg")
    assert (tmp_path / "data/growth.md").read_text() in done.stdout
