"""Completion ports as of Server 2008: requests end at the port, not in the thread that issued them (P2)."""

from ntlab_completion_ports.plugin import CompletionPorts

__all__ = ["CompletionPorts"]
