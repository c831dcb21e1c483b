"""After edits of code, raw data, captions or results what is needed is made, and no more."""

import json

from tests.workflow.project import PAIR_FIGURES, SNAKEMAKE, STUDY_FIGURES, Project


def flipped(content: bytes) -> bytes:
    return content[:40] + bytes([content[40] ^ 1]) + content[41:]


def replace(project: Project, name: str, content: bytes) -> None:
    """Write a file anew: DVC's cache may share the old one."""
    (project.folder / name).unlink()
    (project.folder / name).write_bytes(content)


def test_results_that_were_edited_damaged_or_deleted_are_made_again(project):
    before = project.files("reports/**/*") | project.files("data/statistics/*")
    table = "reports/tables/curves.tiny-qwen.sums.csv"
    replace(project, table, b"typed by hand\n")
    (project.folder / "reports/figures/mad.tiny-llama.sums.svg").unlink()
    page = "reports/index.html"
    replace(project, page, before[page].replace(b"A tiny study", b"My own title"))
    statistics = "data/statistics/mad.parquet"
    replace(project, statistics, flipped(before[statistics]))

    refused = project.run("layergrad verify", status=1).output
    assert all(
        name in refused
        for name in ("curves.tiny-qwen.sums.json", "mad.tiny-llama.sums.svg", page, "sums.json")
    )
    # DVC sees other content than it recorded; what it asks Snakemake for is made as it was
    assert project.jobs("dvc repro") == {"draw": 2, "page": 1, "collect": 1}
    assert project.files("reports/**/*") | project.files("data/statistics/*") == before
    assert project.settled()


def test_a_damaged_file_of_a_store_is_not_recorded(project):
    name = next(iter(project.files("data/pairs/tiny-qwen/*/mad.parquet")))
    replace(project, name, flipped((project.folder / name).read_bytes()))
    assert (
        "a table in it was changed" in project.run("layergrad verify --checksums", status=1).output
    )
    project.edit("title: A tiny study", "title: Another title")
    refused = project.run("dvc repro", status=255).output
    assert f"not by the workflow:\n  {name}" in refused and "Traceback" not in refused
    project.run(f"dvc checkout -f -q {name}")
    assert project.jobs("dvc repro") == {}
    assert project.settled()


def test_code_and_captions_rerun_their_phase_and_those_after(project):
    def planned() -> dict[str, int]:
        dry = project.run("snakemake -n").output.split("Job stats:")[-1]
        counts = dict(line.split() for line in dry.splitlines() if len(line.split()) == 2)
        return {rule: int(n) for rule, n in counts.items() if n.isdigit() and rule != "total"}

    draws = 2 * PAIR_FIGURES + STUDY_FIGURES
    report = {"all": 1, "page": 1}
    code = project.folder / "src/layergrad"
    for file, jobs in (
        ("spectra/extract.py", {}),  # spectra are known by ENGINE_VERSION alone
        ("report/page/page.css", report),
        ("report/figures/theme.py", {**report, "draw": draws}),
        (
            "statistics/bands.py",
            {**report, "draw": draws, "aggregate": 2, "collect": 1, "measure": 1},
        ),
    ):
        text = (code / file).read_text()
        (code / file).write_text(
            text + ("\n/* more */\n" if file.endswith("css") else "\n# more\n")
        )
        assert planned() == jobs, file
        (code / file).write_text(text)
    assert planned() == {}

    caption = project.folder / "src/layergrad/report/captions/curves.md.j2"
    caption.write_text("In other words. " + caption.read_text())
    assert "modified" in project.run("dvc status").output
    assert project.jobs("dvc repro") == {"page": 1}
    assert "In other words." in (project.folder / "reports/index.html").read_text()
    assert project.settled()


def test_raw_data(project):
    raw = project.folder / "data/raw/riddles.jsonl"
    rows = [{"instruction": f"Riddle {i}?", "output": f"answer {i}"} for i in range(5)]
    raw.write_text("".join(json.dumps(row) + "\n" for row in rows))
    project.edit(
        "{kind: reasoning_gym, generator: gsm_symbolic, rows: 20}",
        "{kind: files, responses: {none: data/raw/riddles.jsonl}}",
    )
    project.run("dvc repro")
    old = project.files("data/spectra/*/*.json")
    rows[2]["output"] = "another answer"
    raw.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "data/raw" in project.run("dvc status").output
    jobs = project.jobs("dvc repro")
    assert (jobs["build"], jobs["extract"], jobs["aggregate"]) == (1, 2, 2)
    assert jobs["draw"] == 2 * PAIR_FIGURES + STUDY_FIGURES
    new = project.files("data/spectra/*/*.json")
    measured = [json.loads(new[name])["provenance"]["measured"] for name in new.keys() - old.keys()]
    assert sorted(measured) == [1, 1]  # of each model's three samples the one that was edited
    assert project.settled()


def test_cosines_are_added_and_recorded(project):
    project.edit("seed: 0\nextraction:", "seed: 0\nsimilarity: true\nextraction:")
    project.edit("[none]", "[none, simplified]")
    jobs = project.jobs("dvc repro")
    assert (jobs["cosines"], jobs["extract"]) == (2, 2)
    assert project.settled()
    project.run("git add -A && git commit -qm Cosines && dvc push -q")
    files = project.files("data/similarity/**/*.parquet")
    assert len(files) == 2
    (project.folder / next(iter(files))).unlink()
    assert "missing" in project.run("layergrad verify", status=1).output
    project.run("dvc pull -q")
    assert project.files("data/similarity/**/*.parquet") == files
    assert project.settled()


def test_switching_branches_needs_no_work(project):
    results = ("reports/**/*", "data/statistics/*", "data/manifest.json")
    states = {"main": [project.files(pattern) for pattern in results]}
    project.run("git checkout -q -b other")
    project.edit("seed: 2}", "seed: 8}")
    project.run("dvc repro")
    project.commit("Try another model")
    states["other"] = [project.files(pattern) for pattern in results]
    assert states["main"] != states["other"]
    for branch in ("main", "other", "main"):
        project.run(f"git switch -q {branch} && dvc checkout -q")
        assert [project.files(pattern) for pattern in results] == states[branch]
        assert project.jobs(SNAKEMAKE) == {}
        assert project.jobs("dvc repro") == {}
        assert project.settled()
