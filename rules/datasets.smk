# Datasets: the samples of every response and control.
#
# in   the sources of the datasets: generated, shipped with layergrad, or files (data/raw, by DVC)
# out  data/datasets/DATASET.KEY.parquet    table `dataset`, all responses and controls

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
