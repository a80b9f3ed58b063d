"""The dispatcher lock split into locks of objects and processors, as in Server 2008 R2."""

from ntlab_split_dispatcher_lock.plugin import SplitDispatcherLock

__all__ = ["SplitDispatcherLock"]
