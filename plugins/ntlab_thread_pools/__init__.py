"""Thread pools as of Server 2008: the kernel keeps the workers, and queued work can be taken back (P3)."""

from ntlab_thread_pools.plugin import ThreadPools

__all__ = ["ThreadPools"]
