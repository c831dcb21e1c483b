from pathlib import Path

import pytest

from tests.workflow.project import Project, new_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny study, computed by `dvc repro`, committed and pushed to a remote folder."""
    base = tmp_path_factory.mktemp("finished")
    project = new_project(base / "project")
    project.run(f"dvc remote add -q -d storage {base / 'remote'}")
    project.first = project.jobs("dvc repro")
    project.commit("Compute the study")
    project.run("dvc push -q")
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished study of a test's own."""
    return finished.copy(tmp_path / "project")


@pytest.fixture
def clone(finished: Project, tmp_path: Path) -> Project:
    """A fresh clone of the finished study, with what `dvc pull` fetches."""
    cloned = finished.clone(tmp_path / "clone")
    cloned.run("dvc pull -q")
    return cloned
