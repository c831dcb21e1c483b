"""Snakemake and DVC as equals: each minimal and right, in any order (DESIGN.md section 5)."""

from tests.workflow.project import PAIR_FIGURES, STUDY_FIGURES


def drawn(pairs: int) -> int:
    return PAIR_FIGURES * pairs + STUDY_FIGURES


NEW_MODEL = {"fetch": 1, "preflight": 1, "extract": 1, "aggregate": 1}
REPORT = {"manifest": 1, "audit": 1, "collect": 1, "measure": 1, "page": 1}


def test_first_run_computes_everything_once(finished):
    assert finished.first == {
        "build": 1,
        "fetch": 2,
        "preflight": 2,
        "extract": 2,
        "aggregate": 2,
        "draw": drawn(2),
        **REPORT,
    }


def test_nothing_to_do_after_repro(project):
    assert project.settled()
    assert project.jobs("snakemake --cores 2") == {}
    assert project.jobs("dvc repro") == {}
    assert project.settled()


def test_repro_after_snakemake_recomputes_nothing_and_a_change_back_costs_no_spectra(project):
    project.edit("seed: 2}", "seed: 3}")
    jobs = project.jobs("snakemake --cores 2 --resources gpu=2")
    assert jobs == {**NEW_MODEL, "draw": drawn(1), **REPORT}
    assert project.jobs("dvc repro") == {}
    assert project.settled()

    project.edit("seed: 3}", "seed: 2}")
    assert project.jobs("dvc repro") == {"draw": drawn(1), **REPORT}
    assert project.jobs("snakemake --cores 2") == {}
    assert project.settled()


def test_fresh_clone_after_pull(clone, finished):
    assert clone.jobs("snakemake --cores 2") == {}
    assert clone.jobs("dvc repro") == {}
    assert clone.settled()

    before = clone.files("reports/**/*")
    clone.edit("seed: 2}", "seed: 4}")
    jobs = clone.jobs("dvc repro")
    assert jobs == {"build": 1, **NEW_MODEL, "draw": drawn(1), **REPORT}
    after = clone.files("reports/**/*")
    changed = {name for name in before if before[name] != after.get(name)}
    assert {"reports/index.html", "reports/figures/curves.tiny-qwen.sums.svg"} <= changed
    assert not any("tiny-llama" in name for name in changed)
    assert clone.settled()


def test_fresh_clone_without_the_store_computes_only_what_is_new(finished, tmp_path):
    clone = finished.clone(tmp_path / "clone")
    clone.run("dvc pull -q data/pairs data/statistics reports/figures reports/tables")
    clone.run("dvc pull -q reports/index.html")
    assert clone.jobs("snakemake --cores 2") == {}
    clone.edit("seed: 2}", "seed: 5}")
    jobs = clone.jobs("dvc repro")
    assert jobs == {"build": 1, **NEW_MODEL, "draw": drawn(1), **REPORT}
    pushed = clone.run("dvc push && git add -A && git commit -qm more && git status --short").output
    other = clone.clone(tmp_path / "other")
    other.run("dvc pull -q")
    assert other.files("data/spectra/tiny-llama/**/*.parquet"), pushed


def test_title_and_captions_touch_the_report_alone(project):
    project.edit("title: A tiny study", "title: Another title")
    assert project.jobs("dvc repro") == {"page": 1}
    assert "Another title" in (project.folder / "reports/index.html").read_text()
    assert project.settled()


def test_branches_merge_without_work(project):
    project.run("dvc install && git config merge.ours.driver true")
    for name, seed in (("one", 11), ("two", 12)):
        project.run(f"git checkout -q main && git checkout -q -b {name} && dvc checkout -q")
        model = (
            f"  - name: tiny-{name}\n"
            f"    source: {{kind: random, architecture: llama, seed: {seed}}}\n"
            "    family: tiny\n"
            "    tuning: base\n"
        )
        if name == "one":  # at different places, so that git can merge config.yaml itself
            project.edit("models:\n", "models:\n" + model)
        else:
            project.edit("datasets:\n", model + "datasets:\n")
        assert project.jobs("dvc repro spectra")["extract"] == 1
        project.commit(f"Add a model on branch {name}")
    project.run("git merge -q one -m merged && dvc checkout -q data/spectra")
    assert project.jobs("dvc repro spectra") == {"manifest": 1}
    assert project.jobs("snakemake spectra --cores 2") == {}
    assert project.jobs("dvc repro spectra") == {}
