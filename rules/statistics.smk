# Statistics: from spectra to curves, MAD, RD and findings.
#
# in   data/spectra/MODEL/DATASET.KEY.json and the files it names
# out  data/pairs/MODEL/DATASET.KEY/{metrics,curves,mad,rd}.parquet     one (model, dataset)
#      data/statistics/{curves,mad,rd,findings,...}.parquet             the whole study


rule aggregate:
    input:
        unpack(
            lambda w: needs(
                PLAN.pair_files(w.model, w.dataset),
                all(map(is_made, PLAN.pair_files(w.model, w.dataset))),
                index=PLAN.spectra_file(w.model, w.dataset),
            )
        ),
    output:
        expand(
            "data/pairs/{{model}}/{{dataset}}.{{key}}/{table}.parquet",
            table=PAIR_TABLES,
        ),
        "data/pairs/{model}/{dataset}.{key}/sums.json",
    log:
        "logs/aggregate/{model}/{dataset}.{key}.log",
    group:
        "statistics"
    conda:
        "../envs/statistics.yaml"
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=15,
        aggregates=1,
    params:
        study=STUDY_FILE,
        folder=lambda w, output: Path(output[0]).parent,
    message:
        "Compute the statistics of {wildcards.model} on {wildcards.dataset}"
    shell:
        "export POLARS_MAX_THREADS={threads};"
        " python -m layergrad aggregate --study {params.study}"
        " --model {wildcards.model} --dataset {wildcards.dataset} --key {wildcards.key}"
        " --index {input.index} --output-dir {params.folder} 2>&1 | tee {log}"


rule collect:
    input:
        unpack(
            lambda w: needs(
                TABLES,
                is_current(TABLES, PLAN.tables_key),
                tables=[
                    file for pair in PLAN.pairs for file in PLAN.pair_files(*pair)
                ],
            )
        ),
    output:
        TABLES,
    log:
        "logs/collect.log",
    conda:
        "../envs/statistics.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        study=STUDY_FILE,
        folders=[PLAN.statistics_folder(*pair) for pair in PLAN.pairs],
    message:
        "Collect the statistics of the study"
    shell:
        "export POLARS_MAX_THREADS={threads};"
        " python -m layergrad collect --study {params.study} --inputs {params.folders}"
        " --output-dir data/statistics 2>&1 | tee {log}"
