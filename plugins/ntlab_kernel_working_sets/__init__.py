"""A working set for each section of the kernel's pageable memory (M6)."""

from ntlab_kernel_working_sets.plugin import KernelWorkingSets

__all__ = ["KernelWorkingSets"]
