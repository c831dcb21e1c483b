#!/bin/sh
# How DVC calls Snakemake: ./smk TARGET...
# What is particular to a machine comes from the environment, so that dvc.lock never changes by it:
#   SNAKEMAKE_PROFILE=profiles/slurm dvc repro
#   SMK="--cores 8 --resources gpu=2" dvc repro
# A script, since not every shell splits $SMK; targets first, since --resources swallows what follows.
[ -n "$SMK$SNAKEMAKE_PROFILE" ] || SMK="--cores all"
# shellcheck disable=SC2086
exec snakemake "$@" $SMK
