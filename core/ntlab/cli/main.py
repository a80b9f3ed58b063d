"""The command ``ntlab``.

Exit codes: 0 all is well, 1 a claim fails or a digest differs, 2 a mistake of the user's or of a plugin's,
3 a defect of ntlab, 130 interrupted, 141 whoever read the output has left.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from ntlab._version import __version__
from ntlab.errors import PluginError, UserError, warning_line

OK, FAILS, MISTAKE, DEFECT, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 130, 141


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other mistake is told."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"ntlab: error: {message} (see '{self.prog} --help')\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    traceback = False
    warnings.formatwarning = warning_line
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # "±" is "?" where the locale has no such character
        asked = _parser().parse_args(arguments)
        traceback = asked.traceback
        code: int = asked.command(asked)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except KeyboardInterrupt as interrupt:
        _tell_of_interrupt(interrupt)
        return INTERRUPTED
    except (UserError, PluginError) as error:
        if traceback:
            _print_traceback()
        _print_error(error)
        return MISTAKE
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            _drop_output()
            print(f"ntlab: error: stdout: cannot be written to: {error.strerror}", file=sys.stderr)
            return MISTAKE
        _print_traceback()
        print(f"ntlab: a defect of ntlab: {type(error).__name__}: {error}", file=sys.stderr)
        return DEFECT


def _drop_output() -> None:
    """Python would complain once more when it closes stdout at its end: give it another one."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ntlab",
        description="A laboratory for operating-system mechanisms: what does this feature do here?",
    )
    parser.add_argument("--version", action="version", version=f"ntlab {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, action: Any, help: str, *, of: Any = commands) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = of.add_parser(name, help=help, description=help)
        added.set_defaults(command=action)
        return added

    def as_json(subject: argparse.ArgumentParser) -> None:
        subject.add_argument("--json", action="store_true", help="print JSON")

    def running(subject: argparse.ArgumentParser) -> None:
        subject.add_argument(
            "--jobs", type=int, metavar="N", help="processes to share the work (default: one a usable CPU)"
        )
        subject.add_argument(
            "--hooks",
            metavar="MODE",
            help="direct; plain: through pluggy's own loop; checked: answers and the machine are checked "
            "(default: NTLAB_HOOKS, else direct)",
        )
        subject.add_argument(
            "--check", action="store_const", const="checked", dest="hooks", help="the same as --hooks checked"
        )

    claims = command("claims", _claims, "Run the shipped experiments and judge their claims.")
    claims.add_argument("ids", nargs="*", metavar="ID", help="a claim, ledger row, experiment or plugin")
    running(claims)
    as_json(claims)

    def experimenting(subject: argparse.ArgumentParser) -> None:
        subject.add_argument(
            "experiment", metavar="EXPERIMENT|FILE.toml", help="a shipped experiment, or a file"
        )
        subject.add_argument("--hardware", metavar="NAME|FILE", help="run on this machine instead")
        subject.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="set workload.OPTION or PLUGIN.OPTION, in one arm with ARM. in front; or duration",
        )
        subject.add_argument("--seeds", type=int, metavar="N", help="how many seeds each arm runs with")
        subject.add_argument("--out", metavar="DIR", help="write the result file into this folder")
        running(subject)
        as_json(subject)

    run = command("run", _run, "Run an experiment and show what its arms measure.")
    experimenting(run)
    run.add_argument(
        "--view", metavar="NAME", help="show this view of a run with the first seed instead of measurements"
    )
    run.add_argument(
        "--profile", action="store_true", help="show what the runs with the first seed spend their time on"
    )
    run.add_argument(
        "--perfetto",
        metavar="FILE",
        help="write a trace of a run with the first seed for the Perfetto viewer",
    )
    run.add_argument("--arm", metavar="ARM", help="with --view, --profile or --perfetto: of this arm only")

    ablate = command("ablate", _ablate, "Show which differences between two arms cause the effect.")
    experimenting(ablate)
    ablate.add_argument("--metric", metavar="M", required=True, help="what is looked at: a metric or counter")
    ablate.add_argument("--base", metavar="ARM", help="the arm without the features (default: the first)")
    ablate.add_argument("--full", metavar="ARM", help="the arm with all of them (default: the last)")
    ablate.add_argument(
        "--factor",
        action="append",
        default=[],
        metavar="NAME|NAME+NAME|NAME=OFF,ON",
        help="switch this plugin or PLUGIN.OPTION by itself and the rest together (default: each difference)",
    )
    ablate.add_argument(
        "--split", action="append", default=[], metavar="PLUGIN", help="switch each option of this plugin"
    )
    ablate.add_argument(
        "--runs", type=int, default=1024, metavar="N", help="run at most so many, a fraction (default: 1024)"
    )
    ablate.add_argument(
        "--order", type=int, default=2, metavar="N", help="show interactions of up to N factors (default: 2)"
    )

    sweep = command("sweep", _sweep, "Run an experiment over settings and machines, and keep every run.")
    experimenting(sweep)
    sweep.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="KEY=V,V,...",
        help="an axis: the values of what --set sets, or of hardware; more axes make a grid",
    )
    sweep.add_argument(
        "--cluster", metavar="ADDRESS", help="let the workers of this Dask scheduler do the runs"
    )
    sweep.add_argument(
        "--metric", action="append", default=[], metavar="M", help="show this metric or counter"
    )

    rerun = command("rerun", _rerun, "Run a result again and check that the digests are the same.")
    rerun.add_argument("result", metavar="RESULT", help="a result file, or the folder of one")
    running(rerun)
    as_json(rerun)

    experiments = command("experiments", _experiments, "List the shipped experiments.")
    as_json(experiments)

    plugins = command("plugins", _plugins, "List the installed plugins, or show one.")
    as_json(plugins)
    of_plugins = plugins.add_subparsers(metavar="show NAME|order EXPERIMENT")
    show_plugin = command("show", _show_plugin, "Show a plugin's options and workloads.", of=of_plugins)
    show_plugin.add_argument("name", metavar="NAME")
    as_json(show_plugin)

    order = command("order", _plugin_order, "Show in which order an experiment asks them.", of=of_plugins)
    order.add_argument("experiment", metavar="EXPERIMENT|FILE.toml")
    order.add_argument("--arm", metavar="ARM", help="of this arm only")
    as_json(order)

    hooks = command("hooks", _hooks, "List the hooks that plugins may implement, or show one.")
    as_json(hooks)
    of_hooks = hooks.add_subparsers(metavar="show NAME")
    show_hook = command("show", _show_hook, "Show what a hook asks, and who implements it.", of=of_hooks)
    show_hook.add_argument("name", metavar="NAME")
    as_json(show_hook)

    topology = command("topology", None, "Hardware: list profiles, show or import a machine.")
    of_topology = topology.add_subparsers(metavar="list|show|import", required=True)
    listed = command("list", _topology_list, "List the installed hardware profiles.", of=of_topology)
    as_json(listed)
    shown = command("show", _topology_show, "Show a machine.", of=of_topology)
    shown.add_argument("machine", metavar="NAME|FILE", help="a profile, a .toml, .xml or .acpi file, or host")
    as_json(shown)
    imported = command("import", _topology_import, "Write a machine as a profile.", of=of_topology)
    imported.add_argument("machine", metavar="FILE", help="an hwloc .xml file, or host")
    imported.add_argument("-o", "--output", required=True, metavar="PROFILE.toml")

    new = command("new", None, "Begin a plugin, an experiment or a machine.")
    of_new = new.add_subparsers(metavar="plugin|experiment|hardware", required=True)

    def begun(name: str, action: Any, help: str) -> argparse.ArgumentParser:
        subject = command(name, action, help, of=of_new)
        subject.add_argument("name", metavar="NAME")
        subject.add_argument("--dir", default=".", metavar="DIR", help="where to write it (default: here)")
        return subject

    plugin = begun("plugin", _new_plugin, "Write the distribution of a plugin: code, experiment, tests.")
    plugin.add_argument("--license", default="MIT", help="MIT (default), Apache-2.0, BSD-3-Clause or none")
    plugin.add_argument("--author", default="", metavar="TEXT", help="who has the copyright")
    experiment = begun("experiment", _new_experiment, "Write an experiment with all options of a plugin.")
    experiment.add_argument("--plugin", metavar="PLUGIN", help="what it is about")
    experiment.add_argument("--workload", metavar="PLUGIN.WORKLOAD", help="what drives it")
    hardware = begun("hardware", _new_hardware, "Write the profile of a machine.")
    hardware.add_argument(
        "--from",
        dest="origin",
        metavar="NAME|FILE",
        help="copy a profile, a .toml or hwloc .xml file, or host",
    )
    return parser


# The commands


def _claims(asked: argparse.Namespace) -> int:
    from ntlab.cli.terminal import progress
    from ntlab.lab import api

    with progress() as tell:
        report = api.claims(asked.ids, jobs=_jobs(asked), hooks=asked.hooks, progress=tell)
    holding = sum(claim.holds for claim in report.claims)
    _show_report(report, asked, f"{holding} of {len(report.claims)} claims hold.")
    return OK if report.holds else FAILS


def _run(asked: argparse.Namespace) -> int:
    from ntlab.cli.terminal import progress
    from ntlab.lab import api

    if asked.view is not None:
        _refuse(asked, "--view", "seeds", "out", "jobs", "profile", "perfetto")
        return _show_view(asked)
    if asked.profile:
        _refuse(asked, "--profile", "seeds", "out", "jobs", "hooks", "perfetto")
        return _show_profile(asked)
    if asked.perfetto is not None:
        _refuse(asked, "--perfetto", "seeds", "out", "jobs")
        return _write_perfetto(asked)
    if asked.arm is not None:
        raise UserError("has no effect without --view, --profile or --perfetto", where="--arm")
    with progress() as tell:
        result = api.run(asked.experiment, **_how_to_run(asked), progress=tell)
    _show_report(result, asked)
    return OK if result.holds else FAILS


def _ablate(asked: argparse.Namespace) -> int:
    from ntlab.cli.terminal import progress
    from ntlab.lab import api

    with progress() as tell:
        found = api.ablate(
            asked.experiment,
            asked.metric,
            base=asked.base,
            full=asked.full,
            factors=asked.factor,
            split=asked.split,
            runs=asked.runs,
            order=asked.order,
            **_how_to_run(asked),
            progress=tell,
        )
    return _show_report(found, asked)


def _sweep(asked: argparse.Namespace) -> int:
    from ntlab.cli.terminal import progress
    from ntlab.lab.sweep import parse_axis, sweep

    if asked.out is None:
        raise UserError("a sweep keeps its runs in a folder", where="--out", expected="--out DIR")
    if asked.cluster is not None and asked.jobs is not None:
        raise UserError("has no effect with --cluster", where="--jobs")
    over: dict[str, Any] = {}
    for key, values in map(parse_axis, asked.over):
        if key in over:
            raise UserError(f"{key!r} is there twice", where="--over")
        over[key] = values
    with progress() as tell:
        found = sweep(asked.experiment, over, **_how_to_run(asked), cluster=asked.cluster, progress=tell)
    return _show_report(found.showing(asked.metric), asked, f"{found.runs} runs are in {found.store.file}.")


def _how_to_run(asked: argparse.Namespace) -> dict[str, Any]:
    """What `experimenting` has asked for, as the functions of the laboratory take it."""
    return {
        **_where_to_run(asked),
        "seeds": asked.seeds,
        "jobs": _jobs(asked),
        "hooks": asked.hooks,
        "out": asked.out,
    }


def _where_to_run(asked: argparse.Namespace) -> dict[str, Any]:
    from ntlab.lab.options import parse_setting

    return {"hardware": asked.hardware, "set": dict(parse_setting(text) for text in asked.set)}


def _refuse(asked: argparse.Namespace, chosen: str, *options: str) -> None:
    """Refuse options that say nothing beside the one that was chosen."""
    for option in options:
        if getattr(asked, option):
            raise UserError(f"has no effect with {chosen}", where=f"--{option}")


def _show_profile(asked: argparse.Namespace) -> int:
    from ntlab.lab.profiling import profile

    return _show_report(profile(asked.experiment, asked.arm, **_where_to_run(asked)), asked)


def _show_view(asked: argparse.Namespace) -> int:
    from ntlab.lab import api

    texts = api.view(asked.experiment, asked.view, asked.arm, **_where_to_run(asked), hooks=asked.hooks)
    if asked.json:
        _print_json({"experiment": asked.experiment, "view": asked.view, "arms": texts})
    else:
        for arm, text in texts.items():
            print(f"{asked.view} of {arm}\n{text.rstrip()}\n")
    return OK


def _write_perfetto(asked: argparse.Namespace) -> int:
    from ntlab.lab import api

    files = api.perfetto(
        asked.experiment, asked.perfetto, asked.arm, **_where_to_run(asked), hooks=asked.hooks
    )
    if asked.json:
        _print_json(
            {"experiment": asked.experiment, "files": {arm: str(file) for arm, file in files.items()}}
        )
    else:
        for arm, file in files.items():
            print(f"{file} is written: {arm}, for ui.perfetto.dev.")
    return OK


def _rerun(asked: argparse.Namespace) -> int:
    from ntlab.cli.terminal import progress
    from ntlab.lab import api

    with progress() as tell:
        report = api.rerun(asked.result, jobs=_jobs(asked), hooks=asked.hooks, progress=tell)
    _show_report(report, asked, "The digests are the same." if report.same else "The digests differ.")
    return OK if report.same else FAILS


def _experiments(asked: argparse.Namespace) -> int:
    from ntlab.lab import api

    return _show_report(api.experiments(), asked)


def _plugins(asked: argparse.Namespace) -> int:
    from ntlab.lab import api

    return _show_report(api.plugins(), asked)


def _show_plugin(asked: argparse.Namespace) -> int:
    from ntlab.cli.terminal import show
    from ntlab.lab import api

    plugins = api.plugins(asked.name)
    if asked.json:
        _print_json(plugins.to_json()[0])
    else:
        show(plugins.details())
    return OK


def _plugin_order(asked: argparse.Namespace) -> int:
    from ntlab.lab import api

    return _show_report(api.plugin_order(asked.experiment, asked.arm), asked)


def _hooks(asked: argparse.Namespace) -> int:
    from ntlab.lab import api

    return _show_report(api.hook_reference(), asked)


def _show_hook(asked: argparse.Namespace) -> int:
    from ntlab.cli.terminal import show, width
    from ntlab.lab import api

    hooks = api.hook_reference(asked.name)
    if asked.json:
        _print_json(hooks.to_json()[0])
    else:
        show(hooks.details(width()))
    return _tell_faults(hooks)


def _topology_list(asked: argparse.Namespace) -> int:
    from ntlab.lab import hardware

    return _show_report(hardware.profile_list(), asked)


def _topology_show(asked: argparse.Namespace) -> int:
    from ntlab.lab import hardware

    return _show_report(hardware.describe(asked.machine), asked)


def _topology_import(asked: argparse.Namespace) -> int:
    from pathlib import Path

    from ntlab.topology import load, to_profile

    profile = to_profile(load(asked.machine))
    try:
        Path(asked.output).write_text(profile, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=asked.output) from None
    print(f"{asked.output} is written; 'ntlab topology show {asked.output}' shows it.")
    return OK


def _new_plugin(asked: argparse.Namespace) -> int:
    import shlex

    from ntlab.lab import scaffold

    place = scaffold.new_plugin(asked.name, asked.dir, license=asked.license, author=asked.author)
    print(f"{place} is written. Next:")
    print(f"  cd {shlex.quote(str(place))}")
    print('  python -m pip install -e ".[test]"')
    print(f"  ntlab run {asked.name.replace('_', '-')} && pytest")
    return OK


def _new_experiment(asked: argparse.Namespace) -> int:
    from ntlab.lab import scaffold

    place = scaffold.new_experiment(asked.name, asked.dir, plugin=asked.plugin, workload=asked.workload)
    print(f"{place} is written; 'ntlab run {place}' runs it.")
    return OK


def _new_hardware(asked: argparse.Namespace) -> int:
    from ntlab.lab import scaffold

    place = scaffold.new_hardware(asked.name, asked.dir, origin=asked.origin)
    print(f"{place} is written; 'ntlab topology show {place}' shows it.")
    return OK


# What they share


def _show_report(report: Any, asked: argparse.Namespace, last: str = "") -> int:
    """Print a report as it was asked for; `last` is a line below its tables. Returns the exit code."""
    from ntlab.cli.terminal import show

    if asked.json:
        _print_json(report.to_json())
    else:
        show(report.tables())
        if last:
            print(f"\n{last}")
    return _tell_faults(report)


def _tell_faults(report: Any) -> int:
    """Say what a listing had to leave out. Returns the exit code."""
    for fault in report.faults:
        _print_error(fault)
    return MISTAKE if report.faults else OK


def _print_error(error: Exception) -> None:
    print(f"ntlab: error: {' '.join(str(error).split())}", file=sys.stderr)


def _jobs(asked: argparse.Namespace) -> int:
    from ntlab.lab.workers import usable_processors

    return usable_processors() if asked.jobs is None else asked.jobs


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=1))


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _tell_of_interrupt(interrupt: KeyboardInterrupt) -> None:
    told = "ntlab: interrupted"
    finished, file = getattr(interrupt, "finished", None), getattr(interrupt, "file", None)
    if finished is not None:
        told += f"; finished runs: {finished}"
        if finished:
            told += f", kept in {file}" if file is not None else ", and lost without --out"
    print(told, file=sys.stderr)
