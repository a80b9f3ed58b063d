#!/bin/sh
# Two pipelines at a time, six in all: numbers are shuffled, sorted, packed and counted.
one() { seq 1 "$1" | shuf --random-source=/dev/zero | sort -n | gzip -c | wc -c; }
for round in 1 2 3; do
    one 60000 &
    one 30000 &
    wait
done
