"""What is added to a finished study costs its own work alone."""

import json
from collections import Counter

SNAKEMAKE = "snakemake statistics --cores 2 --resources gpu=2"


def spectra(project) -> dict[str, bytes]:
    return project.files("data/spectra/*/*/*.parquet")


def added(project, command: str) -> tuple[dict[str, int], set[str]]:
    """Run a command; return its jobs and the new files of spectra, having checked the old ones."""
    before = spectra(project)
    jobs = project.jobs(command)
    after = spectra(project)
    assert all(after[name] == content for name, content in before.items())
    return jobs, {name for name in after if name not in before and ".failures." not in name}


def test_a_model(project):
    model = (
        "  - name: tiny-gemma\n"
        "    source: {kind: random, architecture: gemma3_text, seed: 3}\n"
        "    family: tiny-gemma\n"
        "    tuning: base\n"
    )
    project.edit("datasets:\n", model + "datasets:\n")
    jobs, new = added(project, SNAKEMAKE)
    assert (jobs["fetch"], jobs["extract"], jobs["aggregate"]) == (1, 1, 1)
    assert "build" not in jobs
    assert len(new) == 1 and all("tiny-gemma" in name for name in new)


def test_a_dataset(project):
    dataset = (
        "  - name: facts\n"
        "    task: knowledge\n"
        "    source: {kind: embedded, collection: knowledge}\n"
        "    responses: [len100]\n"
    )
    project.edit("datasets:\n", "datasets:\n" + dataset)
    jobs, new = added(project, SNAKEMAKE)
    assert (jobs["build"], jobs["extract"], jobs["aggregate"]) == (1, 2, 2)
    assert "fetch" not in jobs
    assert len(new) == 2 and all("/facts/" in name for name in new)


def test_a_response_then_a_control(project):
    project.edit("[none]", "[none, simplified]")
    jobs, new = added(project, SNAKEMAKE)
    assert (jobs["build"], jobs["extract"], jobs["aggregate"]) == (1, 2, 2)
    cells = Counter(name.split("/")[-1].split(".")[0] for name in new)
    # with two responses to compare, both at equal length too
    assert cells == {"simplified": 2, "none_cut": 2, "simplified_cut": 2}
    runs = [r["provenance"] for r in indexes(project, samples=3) if len(r["cells"]) == 4]
    # the answers need not be cut: their three samples are known
    assert [(run["measured"], run["reused"]) for run in runs] == [(6, 3), (6, 3)]

    project.edit("controls: [correct]", "controls: [correct, irrelevant]")
    jobs, new = added(project, SNAKEMAKE)
    assert (jobs["build"], jobs["extract"], jobs["aggregate"]) == (1, 2, 2)
    assert len(new) == 4 and all(".irrelevant." in name for name in new)


def test_more_samples_measure_the_new_ones_alone(project):
    project.edit("samples: 3", "samples: 5")
    done = project.run(SNAKEMAKE)
    assert done.jobs["extract"] == 2
    measured = [record["provenance"]["measured"] for record in indexes(project, samples=5)]
    assert measured == [2, 2]


def indexes(project, samples: int):
    for content in project.files("data/spectra/*/sums.*.json").values():
        record = json.loads(content)
        if all(cell["samples"] + cell["failed"] == samples for cell in record["cells"]):
            yield record
