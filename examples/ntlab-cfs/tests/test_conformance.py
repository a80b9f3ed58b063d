"""The rules that every plugin keeps."""

from __future__ import annotations

from ntlab.testing import conformance

test_conformance = conformance(
    "cfs", idle={"thread_exited": "it forgets a thread that is gone, which nothing can show"}
)
