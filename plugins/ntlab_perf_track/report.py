"""The table of scenarios, those first that miss their goal."""

from __future__ import annotations

from collections.abc import Sequence

from ntlab import Table
from ntlab.quantities import format_duration
from ntlab_perf_track.scenarios import FLAGS, MOST, Outcome, percentile, wilson

HEADINGS = (
    "scenario", "count>", "timeouts>", "p50>", "p95>", "p99>", "goal>", "within>", "95 %>", "wanted>",
    "great/ok/poor>", "goal",
)  # fmt: skip


def report(outcomes: Sequence[Outcome]) -> str:
    """All scenarios of a run as a text."""
    if not outcomes:
        return "no scenario is defined: see the options 'scenarios' and 'file'\n"
    missed = [outcome for outcome in outcomes if not outcome.met]
    ordered = [*missed, *(outcome for outcome in outcomes if outcome.met)]
    lines = [f"{len(missed)} of {len(outcomes)} scenarios miss their goal"]
    if len(outcomes) > MOST:
        lines[0] += f"; PerfTrack has up to {MOST} scenarios"
    lines.append(Table(HEADINGS, [_row(outcome) for outcome in ordered]).text())
    flagged = []
    for outcome in ordered:
        told = [f"{count} {what}" for what in FLAGS if (count := outcome.flags[what])]
        if outcome.cut:
            told.append(f"{outcome.cut} of the timeouts cut short by the end of the run")
        if outcome.undecided:
            told.append(f"{outcome.undecided} of these not judged, as they might have met the goal")
        if told:
            flagged.append(f"{outcome.scenario.name}: {', '.join(told)}")
    if flagged:
        lines += ["flagged", *flagged, ""]
    return "\n".join(lines)


def _row(outcome: Outcome) -> list[str]:
    scenario = outcome.scenario
    times = outcome.times
    row = [scenario.name, str(len(outcome.durations)), str(outcome.timeouts)]
    row += [format_duration(percentile(times, share)) if times else "-" for share in (0.5, 0.95, 0.99)]
    row.append(format_duration(scenario.goal))
    if not outcome.judged:
        return [*row, "-", "-", f"{scenario.target:.1%}", "-", "did not occur" if not times else "undecided"]
    low, high = wilson(outcome.within, outcome.judged)
    verdict = "met" if outcome.met else "missed"
    return [
        *row,
        f"{outcome.within / outcome.judged:.1%}",
        f"{low:.1%} to {high:.1%}",
        f"{scenario.target:.1%}",
        "/".join(str(count) for count in outcome.bands),
        f"{verdict}, perhaps" if outcome.unsure else verdict,
    ]
