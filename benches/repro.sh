#!/bin/sh
# Runs every protocol of `samcore repro` at small scale, one after the other, and keeps their reports without the runs.
#
#     benches/repro.sh [SAMCORE] [FLAGS OF REPRO …]
#
# CIFAR10=DIR takes CIFAR-10 from a folder whose files are not the original ones. The runs go to runs/repro, the reports to
# benches/results/repro. The same command continues after a stop. docs/repro.md adds up the time on two quiet cores; figures for
# publication need a machine without other work.
set -eu
cd "$(dirname "$0")/.."
samcore=${1:-target/release/samcore}
[ $# -gt 0 ] && shift
for name in report-fashion sam-table1 sam-rho sam-noise corruption-table1 corruption-layers corruption-training amo-table1 \
    amo-robust sam-finetune report-cifar; do
    data=${CIFAR10:-cifar-10}
    [ "$name" = report-fashion ] && data=fashion-mnist
    nice -n 10 "$samcore" repro "$name" --data "$data" --out "runs/repro/$name" --quiet "$@" >/dev/null || exit $?
    mkdir -p "benches/results/repro/$name"
    for file in table.md table.csv results.json report.html accuracy.svg differences.svg curves.svg measured.svg; do
        if [ -f "runs/repro/$name/$file" ]; then
            cp "runs/repro/$name/$file" "benches/results/repro/$name/"
        fi
    done
done
