"""The command line: a thin face over `ntlab.lab.api`."""
