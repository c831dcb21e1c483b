# Report: the figures, their numbers, and the page.
#
# in   data/statistics/*.parquet
# out  reports/figures/FIGURE.{json,svg,png}   Vega-Lite and pictures
#      reports/tables/FIGURE.csv           the numbers of a figure
#      reports/index.html                  the page
#      reports/metrics.json                what `dvc metrics diff` compares (in git)
#      reports/paper/FIGURE.{svg,pdf}      the original study's figures, its tables as .tex and .csv
#      docs/pictures/curves.svg            the picture of the README, drawn by the default study
#
# The page draws from the tables itself. The files of figures are for use elsewhere; they are its inputs
# so that a page that is current needs none of them, which keeps a large study quick to plan.

FIGURE_FILES = [file for name in PLAN.figures for file in PLAN.figure_files(name)]
PAPER_FILES = [file for name in PLAN.paper for file in PLAN.paper_files(name)]


rule draw:
    input:
        unpack(
            lambda w: needs(
                PLAN.figure_files(w.figure),
                is_current(PLAN.figure_files(w.figure), PLAN.figure_key(w.figure)),
                tables=TABLES,
            )
        ),
    output:
        spec="reports/figures/{figure}.json",
        picture=report(
            "reports/figures/{figure}.svg",
            caption="../src/layergrad/report/captions/figure.rst",
            category="Figures",
            subcategory=lambda w: PLAN.figure_labels(w.figure)["figure"],
            labels=lambda w: PLAN.figure_labels(w.figure),
        ),
        raster="reports/figures/{figure}.png",
        numbers="reports/tables/{figure}.csv",
    log:
        "logs/draw/{figure}.log",
    conda:
        "../envs/report.yaml"
    params:
        study=STUDY_FILE,
    message:
        "Draw {wildcards.figure}"
    shell:
        "python -m layergrad draw --study {params.study} --figure {wildcards.figure}"
        " --output-dir reports/figures 2>&1 | tee {log}"


rule page:
    input:
        unpack(
            lambda w: needs(
                ["reports/index.html"],
                is_current(["reports/index.html"], PLAN.page_key),
                tables=TABLES,
                figures=FIGURE_FILES,
                audit=AUDIT_FILE,
                manifest="data/manifest.json",
            )
        ),
    output:
        report("reports/index.html", category="Page", labels={"figure": "the page"}),
    log:
        "logs/page.log",
    conda:
        "../envs/report.yaml"
    params:
        study=STUDY_FILE,
    message:
        "Write the report"
    shell:
        "python -m layergrad page --study {params.study} --output {output} 2>&1 | tee {log}"


rule paper_figure:
    input:
        unpack(
            lambda w: needs(
                PLAN.paper_files(w.paper),
                is_current(PLAN.paper_files(w.paper), PLAN.paper_key(w.paper)),
                tables=TABLES,
            )
        ),
    output:
        provenance="reports/paper/{paper}.json",
        picture="reports/paper/{paper}.svg",
        document="reports/paper/{paper}.pdf",
    log:
        "logs/paper/{paper}.log",
    wildcard_constraints:
        paper=r"(curves|rd)\..+",
    conda:
        "../envs/report.yaml"
    params:
        study=STUDY_FILE,
    message:
        "Draw {wildcards.paper} for a paper"
    shell:
        "python -m layergrad paper --study {params.study} --name {wildcards.paper}"
        " --output-dir reports/paper 2>&1 | tee {log}"


rule paper_table:
    input:
        unpack(
            lambda w: needs(
                PLAN.paper_files(w.paper),
                is_current(PLAN.paper_files(w.paper), PLAN.paper_key(w.paper)),
                tables=TABLES,
            )
        ),
    output:
        provenance="reports/paper/{paper}.json",
        latex="reports/paper/{paper}.tex",
        numbers="reports/paper/{paper}.csv",
    log:
        "logs/paper/{paper}.log",
    wildcard_constraints:
        paper=r"mad\..+",
    conda:
        "../envs/report.yaml"
    params:
        study=STUDY_FILE,
    message:
        "Write {wildcards.paper} for a paper"
    shell:
        "python -m layergrad paper --study {params.study} --name {wildcards.paper}"
        " --output-dir reports/paper 2>&1 | tee {log}"


rule readme_picture:
    input:
        "reports/figures/curves.smollm2-135m-instruct.gsm_symbolic.svg",
    output:
        "docs/pictures/curves.svg",
    log:
        "logs/readme_picture.log",
    conda:
        "../envs/report.yaml"
    message:
        "Copy the picture of the README"
    shell:
        "cp {input} {output} 2>&1 | tee {log}"


rule measure:
    input:
        unpack(
            lambda w: needs(
                ["reports/metrics.json"],
                is_current(["reports/metrics.json"], PLAN.measures_key),
                tables=TABLES,
            )
        ),
    output:
        "reports/metrics.json",
    log:
        "logs/measure.log",
    conda:
        "../envs/report.yaml"
    params:
        study=STUDY_FILE,
    message:
        "Write the metrics that versions are compared by"
    shell:
        "python -m layergrad measure --study {params.study} --output {output} 2>&1 | tee {log}"
