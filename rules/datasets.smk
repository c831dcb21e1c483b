# Datasets: the samples of every response and control.
#
# in   the sources of the datasets: generated, shipped with layergrad, or files (data/raw, by DVC)
#      for the audit also receipts of models, whose tokenizers it asks
# out  data/datasets/DATASET.KEY.parquet    table `dataset`, all responses and controls
#      data/statistics/audit.parquet        what could mislead in them, counted

DATASET_FILES = [PLAN.dataset_file(dataset.name) for dataset in STUDY.datasets]


rule build:
    input:
        unpack(
            lambda w: needs(
                [PLAN.dataset_file(w.dataset)],
                is_made(PLAN.dataset_file(w.dataset)),
                raw=raw_files(w.dataset),
            )
        ),
    output:
        "data/datasets/{dataset}.{key}.parquet",
    log:
        "logs/build/{dataset}.{key}.log",
    conda:
        "../envs/datasets.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        study=STUDY_FILE,
    message:
        "Build the samples of {wildcards.dataset}"
    shell:
        "python -m layergrad build --study {params.study} --dataset {wildcards.dataset}"
        " --key {wildcards.key} --output {output} 2>&1 | tee {log}"


rule audit:
    input:
        unpack(
            lambda w: needs(
                [AUDIT_FILE],
                is_current([AUDIT_FILE], PLAN.audit_key),
                **unaudited(PLAN),
            )
        ),
    output:
        update("data/statistics/audit.parquet"),  # parts that are right stay in it
    log:
        "logs/audit.log",
    conda:
        "../envs/spectra.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        study=STUDY_FILE,
        key=PLAN.audit_key,
        samples=lambda w, input: [
            f"--samples {file}" for file in input.get("samples", [])
        ],
        receipts=lambda w, input: [
            f"--model-receipt {file}" for file in input.get("receipts", [])
        ],
    message:
        "Audit the datasets"
    shell:
        "python -m layergrad audit --study {params.study} --key {params.key}"
        " {params.samples} {params.receipts} --output {output} > {log} 2>&1"
        " || (cat {log} >&2; exit 1)"
