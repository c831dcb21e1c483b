"""The front door: what can be asked for. One phase a file in rules/, the helpers in rules/common.smk.

snakemake --cores 8 --resources gpu=2            the whole study of config.yaml
snakemake spectra --cores 8 --resources gpu=2    the spectra alone (targets come before --resources)
snakemake reports/figures/NAME.svg --cores 2     one figure
snakemake -n --configfile config/paper.yaml      what another study would compute
"""

from snakemake.utils import min_version

min_version("9.27")

# A study given by --configfile replaces config.yaml; Snakemake alone would merge the two.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


report: "src/layergrad/report/captions/workflow.rst"


include: "rules/common.smk"
include: "rules/datasets.smk"
include: "rules/spectra.smk"
include: "rules/statistics.smk"
include: "rules/report.smk"


wildcard_constraints:
    model=r"[a-z0-9][a-z0-9_-]*",
    dataset=r"[a-z0-9][a-z0-9_-]*",
    figure=r"[a-z0-9][a-z0-9_.-]*",
    key=r"[0-9a-f]{10}",


# Cheap or in need of the network: done where Snakemake runs, not sent to a cluster.
localrules:
    all,
    datasets,
    spectra,
    similarity,
    statistics,
    report,
    fetch,
    build,
    audit,
    manifest,
    collect,
    draw,
    page,
    figures,
    paper,
    paper_figure,
    paper_table,
    readme_picture,
    measure,


rule all:
    default_target: True
    input:
        rules.manifest.output,
        rules.audit.output,
        rules.measure.output,
        rules.page.output,
        lambda _: to_be_remade(PLAN),
        SIMILARITY_FILES if STUDY.similarity else [],


rule datasets:
    input:
        DATASET_FILES,


rule spectra:
    input:
        SPECTRA_FILES,


rule similarity:
    input:
        SIMILARITY_FILES,


rule statistics:
    input:
        rules.collect.output,


rule report:
    input:
        rules.page.output,


rule figures:
    input:
        FIGURE_FILES,


rule paper:
    input:
        PAPER_FILES,


onstart:
    write_study()
    say_where_spectra_are_computed()


onsuccess:
    say_what_was_found()
