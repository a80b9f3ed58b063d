"""Pages on a standby list move to the ideal node of the thread that references them (N6)."""

from ntlab_standby_migration.plugin import StandbyMigration

__all__ = ["StandbyMigration"]
