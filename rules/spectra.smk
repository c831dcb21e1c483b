# Spectra: the singular values of every gradient, one job a (model, dataset).
#
# in   data/datasets/DATASET.KEY.parquet
# out  data/similarity/MODEL/DATASET.KEY.parquet   cosines, if the study asks for them
#      data/models/MODEL.KEY.json               receipt of a model's files, which lie beside it
#      data/spectra/MODEL/KEY.preflight.json    checks of a model; one that fails stops its cells
#      data/spectra/MODEL/DATASET.KEY.json      index of a pair: its cells, their files and checksums
#      data/spectra/MODEL/DATASET/RESPONSE.CONTROL.KEY.parquet   tables `spectra` and, beside, `failures`
#      data/manifest.json                       the files of data/spectra that the study uses (in git)
#
# The files of cells are not outputs here: a job keeps those that are complete, makes the others and
# reuses every row it knows, so one load of a model serves all that a pair lacks.

SPECTRA_FILES = [PLAN.spectra_file(*pair) for pair in PLAN.pairs]
SIMILARITY_FILES = [PLAN.similarity_file(*pair) for pair in PLAN.pairs]


rule fetch:
    input:
        unpack(
            lambda w: needs(
                [PLAN.model_file(w.model)],
                is_model_made(PLAN.model_file(w.model)),
            )
        ),
    output:
        "data/models/{model}.{key}.json",
    log:
        "logs/fetch/{model}.{key}.log",
    conda:
        "../envs/spectra.yaml"
    resources:
        mem_mb=16000,
        runtime=240,
    params:
        study=STUDY_FILE,
    message:
        "Fetch {wildcards.model}"
    shell:
        "python -m layergrad fetch --study {params.study} --model {wildcards.model}"
        " --key {wildcards.key} --output {output} 2>&1 | tee {log}"


rule preflight:
    input:
        unpack(
            lambda w: needs(
                [PLAN.preflight_file(w.model)],
                is_made(PLAN.preflight_file(w.model)),
                receipt=PLAN.model_file(w.model),
            )
        ),
    output:
        "data/spectra/{model}/{key}.preflight.json",
    log:
        "logs/preflight/{model}.{key}.log",
    conda:
        "../envs/spectra.yaml"
    threads: STUDY.runtime.threads
    resources:
        gpu=lambda w: STUDY.model(w.model).gpus,
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=60,
    params:
        study=STUDY_FILE,
    message:
        "Check {wildcards.model}"
    shell:
        "export POLARS_MAX_THREADS={threads};"
        " python -m layergrad lease --gpus {resources.gpu} --"
        " python -m layergrad preflight --study {params.study}"
        " --model {wildcards.model} --key {wildcards.key}"
        " --model-receipt {input.receipt} --output {output} 2>&1 | tee {log}"


rule extract:
    input:
        unpack(
            lambda w: needs(
                [PLAN.spectra_file(w.model, w.dataset)],
                is_spectra_made(PLAN.spectra_file(w.model, w.dataset)),
                receipt=PLAN.model_file(w.model),
                preflight=PLAN.preflight_file(w.model),
                samples=PLAN.dataset_file(w.dataset),
            )
        ),
    output:
        "data/spectra/{model}/{dataset}.{key}.json",
    log:
        "logs/extract/{model}/{dataset}.{key}.log",
    benchmark:
        "logs/extract/{model}/{dataset}.{key}.tsv"
    conda:
        "../envs/spectra.yaml"
    threads: STUDY.runtime.threads
    resources:
        gpu=lambda w: STUDY.model(w.model).gpus,
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
    params:
        study=STUDY_FILE,
    message:
        "Measure {wildcards.model} on {wildcards.dataset}"
    shell:
        "export POLARS_MAX_THREADS={threads};"
        " python -m layergrad lease --gpus {resources.gpu} --"
        " python -m layergrad spectra --study {params.study}"
        " --model {wildcards.model} --dataset {wildcards.dataset} --key {wildcards.key}"
        " --model-receipt {input.receipt} --samples {input.samples}"
        " --preflight {input.preflight} --output {output} 2>&1 | tee {log}"


rule cosines:
    input:
        unpack(
            lambda w: needs(
                [PLAN.similarity_file(w.model, w.dataset)],
                is_made(PLAN.similarity_file(w.model, w.dataset)),
                receipt=PLAN.model_file(w.model),
                preflight=PLAN.preflight_file(w.model),
                samples=PLAN.dataset_file(w.dataset),
            )
        ),
    output:
        "data/similarity/{model}/{dataset}.{key}.parquet",
    log:
        "logs/cosines/{model}/{dataset}.{key}.log",
    conda:
        "../envs/spectra.yaml"
    threads: STUDY.runtime.threads
    resources:
        gpu=lambda w: STUDY.model(w.model).gpus,
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
    params:
        study=STUDY_FILE,
    message:
        "Compare the gradients of {wildcards.model} on {wildcards.dataset}"
    shell:
        "export POLARS_MAX_THREADS={threads};"
        " python -m layergrad lease --gpus {resources.gpu} --"
        " python -m layergrad similarity --study {params.study}"
        " --model {wildcards.model} --dataset {wildcards.dataset} --key {wildcards.key}"
        " --model-receipt {input.receipt} --samples {input.samples}"
        " --preflight {input.preflight} --output {output} 2>&1 | tee {log}"


rule manifest:
    input:
        unpack(
            lambda w: needs(
                ["data/manifest.json"],
                is_manifest_current(PLAN),
                indexes=unrecorded_spectra(PLAN),
            )
        ),
    output:
        update("data/manifest.json"),  # pairs that it lists need not be here to stay in it
    log:
        "logs/manifest.log",
    conda:
        "../envs/report.yaml"
    params:
        study=STUDY_FILE,
    message:
        "List the spectra of the study"
    shell:
        "python -m layergrad manifest --study {params.study} --output {output} 2>&1 | tee {log}"
