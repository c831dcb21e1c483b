"""Commands of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layergrad.cli.app import app

StudyOption = Annotated[Path, typer.Option(help="Configuration of the study.")]
StatisticsOption = Annotated[Path, typer.Option(help="Folder of the tables over all pairs.")]
KeyOption = Annotated[str | None, typer.Option(help="Key the caller expects.")]


@app.command()
def draw(
    study: StudyOption,
    figure: Annotated[
        list[str],
        typer.Option(help="Name of a figure, as `layergrad figures` lists; may be repeated."),
    ],
    output_dir: Annotated[Path, typer.Option(help="Folder for Vega-Lite and pictures.")] = Path(
        "reports/figures"
    ),
    statistics: StatisticsOption = Path("data/statistics"),
    key: Annotated[str | None, typer.Option(help="Key the caller expects of one figure.")] = None,
) -> None:
    """Draw figures: Vega-Lite, SVG, PNG, and their numbers as CSV."""
    from layergrad.config import load_study
    from layergrad.plan import Plan, check_key
    from layergrad.report.draw import draw as write_figure

    plan = Plan(load_study(study))
    for name in figure:
        check_key(f"figure {name}", plan.figure_key(name), key)
        write_figure(plan, name, output_dir, statistics)


@app.command()
def paper(
    study: StudyOption,
    name: Annotated[str, typer.Option(help="curves.MODEL.DATASET, rd.MODEL.DATASET or mad.MODEL.")],
    output_dir: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("reports/paper"),
    statistics: StatisticsOption = Path("data/statistics"),
    key: KeyOption = None,
) -> None:
    """Write one figure (SVG, PDF) or table (LaTeX, CSV) of the original study."""
    from layergrad.config import load_study
    from layergrad.plan import Plan, check_key
    from layergrad.report.paper import write_paper

    plan = Plan(load_study(study))
    check_key(f"{name} of the paper", plan.paper_key(name), key)
    write_paper(plan, name, output_dir, statistics)


@app.command()
def figures(study: StudyOption) -> None:
    """List the figures of a study."""
    from layergrad.config import load_study
    from layergrad.report.names import figure_names

    for name in figure_names(load_study(study)):
        print(name)


@app.command()
def page(
    study: StudyOption,
    output: Annotated[Path, typer.Option(help="Page to write.")] = Path("reports/index.html"),
    statistics: StatisticsOption = Path("data/statistics"),
    key: KeyOption = None,
) -> None:
    """Write the report: one page that works offline."""
    from layergrad.config import load_study
    from layergrad.plan import Plan, check_key
    from layergrad.report.page import write_page

    plan = Plan(load_study(study))
    check_key("report", plan.page_key, key)
    write_page(plan, output, statistics)


@app.command()
def overview(
    study: StudyOption = Path("config.yaml"),
    statistics: StatisticsOption = Path("data/statistics"),
) -> None:
    """Print what a study found: means by model, dataset and response, and the claims."""
    from rich.console import Console

    from layergrad.config import load_study
    from layergrad.plan import Plan
    from layergrad.report.overview import overview as print_overview

    print_overview(Plan(load_study(study)), Console(highlight=False), statistics)


@app.command()
def explain(
    file: Annotated[Path, typer.Argument(help="A figure, table, page, spectra, dataset, receipt.")],
    study: StudyOption = Path("config.yaml"),
) -> None:
    """Say what a file was made from, back to the raw inputs, and whether it is still current."""
    from layergrad.config import load_study
    from layergrad.plan import Plan
    from layergrad.report.explain import explain as walk

    print("\n".join(walk(Plan(load_study(study)), file).lines()))
