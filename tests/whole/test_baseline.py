"""The baseline keeps what every plugin keeps, as far as that applies to what all experiments build upon."""

from __future__ import annotations

from ntlab.testing import conformance

SAME = "by default its answer is the core's own; what its options change is tested by hand"

test_conformance = conformance(
    "ws2003",
    experiments=[
        "completion-ports-orphans",
        "completion-ports-processors",
        "fair-share-demands",
        "fair-share-priority",
        "ideal-quiet",
        "kernel-ws-shortage",
        "kernel-working-sets",
        "numa-fallback",
        "numa-pool",
        "page-ages-mixed",
        "paging-locality",
        "parallel-boot-slow-driver",
        "registry-pool",
        "thread-pools-growth",
        "tick-distribution-power",
        "tick-distribution-timers",
        "timer-expiration-waiting",
        "whea-sources",
    ],
    idle={
        "cache_policy": SAME,
        "hardware_changed": "parts come and go in experiments of others, where it makes no difference",
        "io_limit": SAME,
        "max_transfer": SAME,
        "memory_policy": SAME,
        "processor_cache_policy": SAME,
        "read_ahead_target": SAME,
        "write_cluster": SAME,
        "write_cluster_limit": SAME,
        "thread_exited": "it forgets a thread that is gone, which nothing can show",
    },
)
