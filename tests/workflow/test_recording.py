"""What DVC records is what the configuration says: guards, remotes, experiments."""

import json

import pytest

from tests.workflow.project import new_project


def test_stale_results_are_not_recorded(clone, tmp_path):
    """The trap: Snakemake does nothing, and DVC takes the old files for the new result."""
    idle = tmp_path / "bin" / "snakemake"
    idle.parent.mkdir()
    idle.write_text("#!/bin/sh\nexit 0\n")
    idle.chmod(0o755)
    clone.edit("seed: 2}", "seed: 6}")
    before = (clone.folder / "dvc.lock").read_bytes()
    refused = clone.run(f"PATH={idle.parent}:$PATH dvc repro", status=255).output
    assert "data/manifest.json: lists other spectra than the study's" in refused
    assert (clone.folder / "dvc.lock").read_bytes() == before


def test_a_stale_page_is_refused(project):
    project.edit("title: A tiny study", "title: Another")
    refused = project.run("layergrad verify", status=1).output
    assert "reports/index.html: made from another configuration" in refused


def test_other_triggers_are_refused(project):
    refused = project.run("snakemake -n --rerun-triggers params mtime", status=1).output
    assert "content keys decide" in refused


def test_force_runs_every_job_again(project):
    jobs = project.jobs("snakemake statistics --cores 2 --forcerun aggregate")
    assert jobs == {"aggregate": 2, "collect": 1}


def test_versions_are_compared_by_parameters_and_metrics(project):
    project.edit("seed: 2}", "seed: 7}")
    project.run("dvc repro")
    assert "seed" in project.run("dvc params diff").output
    assert "tiny-qwen" in project.run("dvc metrics diff").output
    assert "spectra" in project.run("dvc dag").output


def test_experiment_in_a_folder_of_its_own(project):
    done = project.run("dvc exp run --temp --name other -S 'config.yaml:report.title=Other'")
    assert done.jobs == {"page": 1}
    assert project.settled()
    shown = json.loads(project.run("dvc exp show --json 2>/dev/null").output)
    assert "other" in json.dumps(shown)


def test_a_study_given_by_name_replaces_the_configuration(project):
    (project.folder / "other.yaml").write_text(
        (project.folder / "config.yaml").read_text().replace("draws: 100", "draws: 200")
    )
    project.edit("draws: 100\n  confidence: 0.95", "draws: 100\n  confidence: 0.9")
    jobs = project.jobs("snakemake statistics --cores 2 --configfile other.yaml")
    assert jobs == {"aggregate": 2, "collect": 1}
    studies = [json.loads(s) for s in project.files(".layergrad/studies/*.json").values()]
    assert {"draws": 200, "confidence": 0.95} in [
        {name: s["statistics"][name] for name in ("draws", "confidence")} for s in studies
    ]


def test_published_statistics_are_reported_without_data_or_model(tmp_path):
    project = new_project(tmp_path)
    values = {"S_sum": 2.0, "S_max": 1.0, "S_min": 0.1, "frobenius_norm": 1.2}
    for kind, size in (("no_cot", 3.0), ("with_cot_gpt4o", 1.0)):
        file = project.folder / f"published/cot_500/some_it/grads_aqua_train_{kind}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"instruction": f"q{i}", "output": "x", "loss": 1.0}
            | {
                f"model.layers.{layer}.self_attn.{p}_proj.weight": {
                    name: size * value * (1 + i % 3 + layer) for name, value in values.items()
                }
                for layer in range(4)
                for p in "qkvo"
            }
            for i in range(6)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    project.run("layergrad import-published published")
    study = "--configfile data/raw/published/study.json"
    jobs = project.jobs(f"snakemake --cores 2 {study}")
    assert jobs.keys().isdisjoint({"fetch", "build", "preflight", "extract"})
    assert (jobs["aggregate"], jobs["audit"], jobs["page"]) == (1, 1, 1)
    assert "Nothing to be done" in project.run(f"snakemake -n {study}").output


def test_remote_on_s3(project, tmp_path):
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        secret = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "hush-hush"}
        place = f"http://{host}:{port}"
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=place,
            region_name="us-east-1",
            aws_access_key_id="someone",
            aws_secret_access_key="hush-hush",
        )
        client.create_bucket(Bucket="studies")
        project.run("dvc remote add -q -d s3 s3://studies/tiny")
        project.run(f"dvc remote modify s3 endpointurl {place}")
        project.commit("Share the results")
        project.run("dvc push -q", **secret)
        clone = project.clone(tmp_path / "clone")
        clone.run("dvc pull -q", **secret)
        assert clone.settled()
        assert clone.jobs("snakemake --cores 2") == {}
        assert (
            "hush-hush"
            not in project.run("git grep hush-hush -- .dvc data dvc.lock reports || true").output
        )
    finally:
        server.stop()
