# Report: the figures, their numbers, and the page.
#
# in   data/statistics/*.parquet
# out  reports/figures/FIGURE.{json,svg,png}   Vega-Lite and pictures
#      reports/tables/FIGURE.csv           the numbers of a figure
#      reports/index.html                  the page
#      reports/metrics.json                what `dvc metrics diff` compares (in git)


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
        picture="reports/figures/{figure}.svg",
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
                figures=[
                    file for name in PLAN.figures for file in PLAN.figure_files(name)
                ],
                audit=AUDIT_FILE,
                manifest="data/manifest.json",
            )
        ),
    output:
        "reports/index.html",
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
