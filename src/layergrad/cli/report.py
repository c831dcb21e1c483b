"""Commands of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layergrad.cli.app import app
from layergrad.cli.options import Key, Statistics, Study, plan_of


@app.command()
def draw(
    study: Study,
    figure: Annotated[
        list[str],
        typer.Option(help="Name of a figure, as `layergrad figures` lists; may be repeated."),
    ],
    output_dir: Annotated[Path, typer.Option(help="Folder for Vega-Lite and pictures.")] = Path(
        "reports/figures"
    ),
    statistics: Statistics = Path("data/statistics"),
    key: Annotated[str | None, typer.Option(help="Key the caller expects of one figure.")] = None,
) -> None:
    """Draw figures: Vega-Lite, SVG, PNG, and their numbers as CSV."""
    from layergrad.plan import check_key
    from layergrad.report.draw import draw as write_figure

    plan = plan_of(study)
    for name in figure:
        check_key(f"figure {name}", plan.figure_key(name), key)
        write_figure(plan, name, output_dir, statistics)


@app.command()
def paper(
    study: Study,
    name: Annotated[str, typer.Option(help="curves.MODEL.DATASET, rd.MODEL.DATASET or mad.MODEL.")],
    output_dir: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("reports/paper"),
    statistics: Statistics = Path("data/statistics"),
    key: Key = None,
) -> None:
    """Write one figure (SVG, PDF) or table (LaTeX, CSV) of the original study."""
    from layergrad.plan import check_key
    from layergrad.report.paper import write_paper

    plan = plan_of(study)
    check_key(f"{name} of the paper", plan.paper_key(name), key)
    write_paper(plan, name, output_dir, statistics)


@app.command()
def figures(study: Study) -> None:
    """List the figures of a study."""
    from layergrad.figures import figure_names

    for name in figure_names(plan_of(study).study):
        print(name)


@app.command()
def page(
    study: Study,
    output: Annotated[Path, typer.Option(help="Page to write.")] = Path("reports/index.html"),
    statistics: Statistics = Path("data/statistics"),
    key: Key = None,
) -> None:
    """Write the report: one page that works offline."""
    from layergrad.plan import check_key
    from layergrad.report.page import write_page
    from layergrad.results import remove_other_figures

    plan = plan_of(study)
    check_key("report", plan.page_key, key)
    write_page(plan, output, statistics)
    remove_other_figures(plan)


@app.command()
def overview(
    study: Study = Path("config.yaml"),
    statistics: Statistics = Path("data/statistics"),
) -> None:
    """Print what a study found: means by model, dataset and response, and the claims."""
    from rich.console import Console

    from layergrad.report.overview import overview as print_overview

    print_overview(plan_of(study), Console(highlight=False), statistics)


@app.command()
def explain(
    file: Annotated[Path, typer.Argument(help="A figure, table, page, spectra, dataset, receipt.")],
    study: Study = Path("config.yaml"),
) -> None:
    """Say what a file was made from, back to the raw inputs, and whether it is still current."""
    from layergrad.report.explain import explain as walk

    print("\n".join(walk(plan_of(study), file).lines()))
