"""The page: complete, offline, escaped; captions state numbers of the data."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from markupsafe import escape

from layergrad.datasets.audit import audit
from layergrad.errors import UserError
from layergrad.plan import Plan
from layergrad.provenance import is_intact, read_json, recorded_key, write_json
from layergrad.report import facts
from layergrad.report import page as page_module
from layergrad.report.captions import MINUS, SHIPPED, Captions, number, percent
from layergrad.report.draw import draw
from layergrad.report.page import as_script, write_page
from layergrad.report.page.numbers import pack
from layergrad.report.page.sections import overall, sign, stands
from layergrad.results import AUDIT_FILE
from layergrad.tables import AUDIT, DATASET, read_table, write_table
from tests.synthetic import tiny_study
from tests.unit.test_report_figures import measured

EVIL = "<script>alert('x')</script> & " + "w" * 3000


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield measured(folder)


@pytest.fixture(scope="module")
def html(plan):
    for spec in plan.study.datasets:
        rows = [
            {
                "sample_id": "a",
                "row": 0,
                "dataset": spec.name,
                "response": response,
                "control": control,
                "instruction": EVIL,
                "response_text": EVIL,
            }
            for response in spec.responses
            for control in plan.study.controls_of(spec)
        ]
        write_table(pl.DataFrame(rows), DATASET, plan.dataset_file(spec.name), {})
    built = [read_table(plan.dataset_file(spec.name), DATASET) for spec in plan.study.datasets]
    write_table(audit(pl.concat(built)), AUDIT, AUDIT_FILE, {"key": plan.audit_key})
    check = {"name": "BOS count", "status": "failed", "detail": "2 at the start"}
    write_json({"checks": [check]}, plan.preflight_file(plan.study.models[0].name))
    pair = plan.spectra_file(*plan.pairs[0])
    text = [["<|user|> what?", False], [EVIL, True]]
    prompt = {"response": "none", "row": 7, "tokens": 5, "text": text, "printed": ""}
    shown = {"notes": ["the template opens a thought"], "prompts": [prompt]}
    write_json({**read_json(pair), "examples": shown}, pair)
    write_page(plan, Path("reports/index.html"))
    return Path("reports/index.html").read_text()


class Outline(HTMLParser):
    """Collects headings, ids, links and what would be fetched."""

    def __init__(self, html: str):
        super().__init__()
        self.headings, self.ids, self.links, self.fetched, self.scripts = [], [], [], [], 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        if tag in {"script", "img", "iframe"} and "src" in values:
            self.fetched.append(values["src"])
        if tag == "link":
            self.fetched.append(values["href"])
        self.scripts += tag == "script"


def test_the_page_records_its_key_and_fetches_nothing(plan, html):
    assert recorded_key("reports/index.html") == plan.page_key
    assert [link for link in Outline(html).fetched if not link.startswith("data:")] == []
    assert '<html lang="en">' in html
    assert f"<title>{plan.study.report.title}</title>" in html


def test_health_shows_the_checks_of_models_and_the_audit(html):
    assert "<td>BOS count</td><td>✗ failed</td>" in html
    assert "doubled punctuation" in html
    assert "No audit is here" not in html and "No preflight" not in html


def test_health_shows_a_prompt_with_the_tokens_in_the_loss_marked(html):
    assert "the template opens a thought" in html and "row 7, 5 tokens:" in html
    assert f">&lt;|user|&gt; what?<mark>{escape(EVIL)}</mark></pre>" in html


def test_a_model_that_failed_its_preflight_is_named_above_the_findings(plan, html):
    found = html.split('<section id="findings">')[1]
    label = plan.study.models[0].label
    assert f"<strong>{label} failed its preflight and was not measured</strong>: BOS" in found


def test_headings_are_in_order_and_links_lead_somewhere(html):
    outline = Outline(html)
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    steps = zip(outline.headings, outline.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)
    assert len(outline.ids) == len(set(outline.ids))
    assert {link[1:] for link in outline.links if link.startswith("#")} <= set(outline.ids)


def test_text_of_datasets_is_escaped(html):
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_json_cannot_end_its_script_element():
    value = {"text": "</script><!-- <script>", "line": "\u2028"}
    script = as_script(value)
    assert "<" not in script
    assert "\u2028" not in script
    assert json.loads(script) == value


def test_every_pair_has_rows_and_captions_of_every_metric(plan, html):
    found = dict(
        json.loads(match)
        for match in re.findall(r"<script>layergrad\.receive\((.*)\);</script>", html)
    )
    assert set(found) == {model.name for model in plan.study.models}
    metrics = set(plan.study.statistics.metrics)
    for model in found.values():
        for dataset in model["datasets"].values():
            for family in ("curves", "mad", "rd", "length"):
                assert set(dataset["captions"][family]) == metrics
                assert set(dataset["rows"][family]["metric"]["texts"]) == metrics


def test_a_large_study_keeps_numbers_beside_the_page(plan, html, monkeypatch, tmp_path):
    monkeypatch.setattr(page_module, "MOST_INLINE", 1000)
    stale = tmp_path / "data" / "gone.0000000000.js"
    stale.parent.mkdir()
    stale.write_text("")
    write_page(plan, tmp_path / "index.html")
    assert "layergrad.receive([" not in (tmp_path / "index.html").read_text()
    assert {file.name for file in (tmp_path / "data").glob("*.js")} == {
        f"{model.name}.{plan.page_key}.js" for model in plan.study.models
    }
    assert is_intact(tmp_path / "index.html")
    numbers = next((tmp_path / "data").glob("*.js"))
    numbers.write_text(numbers.read_text() + " ")
    assert not is_intact(tmp_path / "index.html")


@pytest.mark.parametrize(
    ("survives", "said"),
    [
        (["yes", "yes"], "also with length taken out"),
        (["yes", "no"], "in part with length taken out"),
        (["no", "unclear"], "not with length taken out"),
        (["unclear"], "perhaps not with length taken out"),
        ([None], ""),
    ],
)
def test_a_claim_says_whether_it_stands_with_length_taken_out(survives, said):
    assert stands(pl.DataFrame({"survives": survives}, {"survives": pl.String})) == said


def test_packed_rows_can_be_read_back():
    rows = pl.DataFrame({"a": ["x", "y", "x"], "n": [1, 2, 3], "v": [1.234567, None, 2e-7]})
    packed = pack(rows)
    assert packed == {
        "a": {"texts": ["x", "y"], "at": [0, 1, 0]},
        "n": [1, 2, 3],
        "v": [1.2346, None, 2e-7],
    }


def curve_rows() -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "response": response,
                "projection": p,
                "layer": i,
                "mean": size * (1 + i),
                "samples": 7,
            }
            for response, size in (("None (fast)", 4.0), ("Detailed (slow)", 1.0))
            for p in ("v", "q")
            for i in range(3)
        ]
    )


def test_facts_of_curves():
    found = facts.curves(curve_rows())
    assert found["projections"] == ["q", "v"]
    assert found["means"] == {"None (fast)": [8.0, 8.0], "Detailed (slow)": [2.0, 2.0]}
    assert found["peaks"]["None (fast)"] == [2, 2]
    assert found["ratio"]["None (fast)", "Detailed (slow)"] == 4.0
    assert found["samples"] == (7, 7)


def test_facts_of_rd_count_intervals_that_leave_out_zero():
    rows = pl.DataFrame(
        {
            "response": ["a"] * 4,
            "projection": ["q"] * 4,
            "layer": [0, 1, 2, 3],
            "signed": [0.5, -0.5, 0.1, 0.1],
            "low": [0.4, -0.6, -0.1, None],
            "high": [0.6, -0.4, 0.2, None],
            "samples": [3] * 4,
        }
    )
    found = facts.rd(rows)["by_response"]["a"]
    assert found["apart"] == 2
    assert found["signed"] == pytest.approx(0.05)
    assert found["absolute"] == pytest.approx(0.3)


def test_facts_of_length_find_the_slope():
    tokens = [2, 4, 8, 16]
    rows = pl.DataFrame(
        {
            "response": ["a"] * 4,
            "projection": ["q"] * 4,
            "row": [0, 1, 2, 3],
            "response_tokens": tokens,
            "value": [8.0 / n for n in tokens],
        }
    )
    (fit,) = facts.length(rows)["fits"]
    assert fit["slope"] == pytest.approx(-1)
    assert fit["rank"] == pytest.approx(-1)


def test_numbers_as_people_write_them():
    assert number(0.28472) == "0.285"
    assert number(-12.3456) == f"{MINUS}12.3"
    assert number(43210.9) == "43,211"
    assert number(3.2e-9) == "3.20e-09"
    assert number(None) == "n/a"
    assert percent(-0.1234) == f"{MINUS}12.3\N{NO-BREAK SPACE}%"


def test_a_faulty_caption_names_file_and_fault(tmp_path):
    (tmp_path / "curves.md.j2").write_text("{{ nothing }}")
    (tmp_path / "mad.md.j2").write_text("{% if %}")
    captions = Captions(tmp_path)
    with pytest.raises(UserError, match=r"curves\.md\.j2: 'nothing' is undefined"):
        captions.html("curves", {})
    with pytest.raises(UserError, match=r"mad\.md\.j2, line 1"):
        captions.html("mad", {})
    with pytest.raises(UserError, match=r"rd\.md\.j2: no such caption"):
        captions.html("rd", {})


def test_a_study_words_captions_of_its_own(tmp_path):
    (tmp_path / "curves.md.j2").write_text("Wörter dieser Studie", encoding="utf-8")
    captions = Captions(tmp_path, SHIPPED)
    assert captions.html("curves", {}) == "<p>Wörter dieser Studie</p>\n"
    values = {"measured": 4, "lost": 0, "cells": 1, "reasons": ""}
    assert captions.html("samples", values) == Captions(SHIPPED).html("samples", values)
    (tmp_path / "curves.md.j2").write_bytes(b"W\xf6rter")
    with pytest.raises(UserError, match=r"curves\.md\.j2: is no text in UTF-8"):
        Captions(tmp_path, SHIPPED).html("curves", {})


def test_captions_escape_what_they_are_given(tmp_path):
    (tmp_path / "curves.md.j2").write_text("*{{ response }}*")
    html = Captions(tmp_path).html("curves", {"response": "<script>x</script>"})
    assert "<script>" not in html


def test_every_family_has_a_caption():
    families = {name.split(".")[0] for name in Plan(tiny_study()).figures}
    assert families == {file.name.split(".")[0] for file in SHIPPED.glob("*.md.j2")}


def test_the_caption_for_snakemake_knows_every_family():
    text = (SHIPPED / "figure.rst").read_text(encoding="utf-8")
    families = {name.split(".")[0] for name in Plan(tiny_study()).figures}
    assert {family for family in families if f'"{family}":' not in text} == set()


def test_one_word_for_several_verdicts():
    assert overall(["supported"] * 3 + ["not testable"]) == "supported"
    assert overall(["not testable"]) == "not testable"
    assert overall(["supported", "contradicted"]) == "mixed"
    assert overall(["inconclusive"] * 9 + ["supported"]) == "mostly inconclusive"
    assert sign("mostly inconclusive") == sign("inconclusive") != sign("mixed")


@pytest.mark.parametrize(
    "changes",
    [
        {"controls": ["correct"], "samples": 1},
        {"controls": ["irrelevant"], "samples": 3},
        {
            "extraction": {"projections": ["v", "gate"]},
            "statistics": {
                "draws": 100,
                "metrics": ["sum_loss.nuclear_norm", "energy_top4"],
                "claim_metric": "effective_rank",
            },
            "report": {"metric": "energy_top4", "title": "<b>Title</b> & more"},
            "samples": 4,
        },
    ],
    ids=["one sample", "no correct responses", "other metrics"],
)
def test_unusual_studies_are_reported(changes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = measured(tmp_path, **changes)
    for name in plan.figures:
        draw(plan, name, Path("reports/figures"))
    write_page(plan, Path("reports/index.html"))
    html = Path("reports/index.html").read_text()
    assert recorded_key("reports/index.html") == plan.page_key
    assert "<b>Title" not in html


def test_a_pair_without_any_sample_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    responses, controls = ("none", "simplified", "detailed"), ("correct", "irrelevant")
    lost = dict.fromkeys(itertools.product(responses, controls), 5)
    plan = measured(tmp_path, failed=lost)
    for name in plan.figures:
        draw(plan, name, Path("reports/figures"))
    assert (
        "No sample was measured"
        in Path("reports/figures/curves.tiny-base.gsm_symbolic.svg").read_text()
    )
    write_page(plan, Path("reports/index.html"))
    assert "no_response_tokens" in Path("reports/index.html").read_text()
