"""The conformance kit: a good plugin passes every rule, and each rule catches who breaks it, and says how."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distributions import TOY, write_distribution
from ntlab.lab.registry import installed
from ntlab.machine import Machine
from ntlab.testing import Broken, NotShown, conformance, conformance_rules, kit

GOOD = """
from ntlab import Duration, hookimpl, option, plugin
from ntlab.machine import Machine, SchedulerPolicy, Thread


@plugin(
    name="mine",
    summary="Turns as long as anybody likes.",
    release="ws2008",
    requires=("toy_base",),
    before=("toy_short",),
    neutral={"turn": "0 ns"},
)
class Mine:
    turn: Duration = option(default=Duration(5_000_000), help="A turn; 0 is the usual one.", minimum=0)

    @hookimpl
    def scheduler_policy(self, machine: Machine) -> SchedulerPolicy | None:
        return SchedulerPolicy(quantum=self.turn) if self.turn else None
"""
EXPERIMENT = """
name = "mine"
hardware = "uni"
seeds = 3
workload = { use = "toy_base.runners", threads = 3 }
plugins = { toy_base = {} }
arms = { before = {}, after = { plugins = { mine = {} } } }

[[claims]]
id = "mine-switches"
metric = "switches"
expect = "after > 2 * before"
source = "60 ms over 5 ms"
"""
HOOK = "    @hookimpl\n    def scheduler_policy"
CLASS = "class Mine:"
DECORATED = "@plugin("
ANY = ("from ntlab import", "from typing import Any\nfrom ntlab import")
RULES = [
    "described", "options", "experiments", "deterministic", "off", "neutral", "own-means", "faults", "claims",
    "hooks", "beside-others",
]  # fmt: skip

Install = Callable[..., None]


@pytest.fixture
def install(installed_only: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install the toys and a plugin "mine": the good one, changed by replacing texts in its files.

    What the bad ones change in a machine is put back.
    """
    monkeypatch.setitem(Machine.create_process.__kwdefaults__, "base_priority", 8)
    monkeypatch.setattr(Machine, "create_process", Machine.create_process)

    def make(*changes: tuple[str, str], readme: str = "What it is.") -> None:
        module, experiment = GOOD, EXPERIMENT
        for old, new in changes:
            assert (old in module) != (old in experiment), old
            module, experiment = module.replace(old, new), experiment.replace(old, new)
        modules = {"ntlab_mine/__init__.py": module, "ntlab_mine/experiments/mine.toml": experiment}
        if readme:
            modules["ntlab_mine/README.md"] = readme
        plugins = {"mine": "ntlab_mine:Mine"}
        write_distribution(tmp_path, "ntlab-mine", plugins=plugins, modules=modules)
        installed_only(TOY, tmp_path)

    return make


def outcome(name: str, **asked: Any) -> str:
    """What a rule says of the plugin, "" if nothing."""
    (rule,) = [rule for rule in conformance_rules("mine", **asked) if rule.name == name]
    try:
        rule.check()
    except Broken as broken:
        return str(broken)
    except NotShown as reason:
        return f"not shown: {reason}"
    return ""


def test_a_good_plugin_passes_and_nothing_is_left_out(install: Install) -> None:
    install()
    rules = conformance_rules("mine")
    assert [rule.name for rule in rules] == RULES
    for rule in rules:
        rule.check()


def test_one_line_makes_a_pytest_test_of_each_rule(install: Install) -> None:
    install(("neutral={", "neutral=None and {"), ('help="A turn; 0 is the usual one."', 'help="Turn."'))
    test: Any = conformance("mine")
    (mark,) = test.pytestmark
    assert (mark.name, mark.args[0]) == ("parametrize", "rule")
    rules = {mark.kwargs["ids"](rule): rule for rule in mark.args[1]}
    assert list(rules) == RULES
    test(rules["claims"])
    with pytest.raises(pytest.skip.Exception, match="it states no neutral options"):
        test(rules["neutral"])
    with pytest.raises(pytest.fail.Exception, match="plugin 'mine' breaks the rule 'options'") as caught:
        test(rules["options"])
    assert not caught.value.pytrace


def also(method: str) -> tuple[str, str]:
    """One more hook implementation."""
    return HOOK, f"    @hookimpl\n    {method}\n\n{HOOK}"


@pytest.mark.parametrize(
    ("rule", "changes", "told"),
    [
        pytest.param(
            "described",
            [("Turns as long as anybody likes.", "Mine.")],
            r"seen: the summary is 'Mine\.'\n  mend: @plugin\(summary=",
            id="a summary that says nothing",
        ),
        pytest.param(
            "described",
            [('source = "60 ms over 5 ms"', "")],
            r"claim 'mine-switches' of .*mine\.toml says neither 'ledger' nor 'source'\n  mend: say where",
            id="a claim from nowhere",
        ),
        pytest.param(
            "described",
            [also("def machine_booted(self) -> None:\n        pass\n\n    views = True")],
            r"Mine\.views\(\): TypeError: 'bool' object is not callable\n  mend: what `views\(\)` returns",
            id="something else is called views",
        ),
        pytest.param(
            "options",
            [("A turn; 0 is the usual one.", "The turn.")],
            "option 'turn' of 'mine': its help is 'The turn.'",
            id="a help that says nothing",
        ),
        pytest.param(
            "options",
            [(CLASS, f'{CLASS}\n    steps: int = option(default=1, help="How many steps.")')],
            r"option 'steps' of 'mine': no code of the package reads it\n  mend: use self\.steps",
            id="an option that nobody reads",
        ),
        pytest.param(
            "options",
            [(CLASS, f'{CLASS}\n    seen: Any = option(default=None, help="Anything at all.")'), ANY],
            r"option 'seen' of 'mine': \{.*\}, which is no Any, is accepted\n  mend: annotate it",
            id="an option that takes anything",
        ),
        pytest.param(
            "options",
            [(CLASS, f'{CLASS}\n    seen: Any = option(default=None, help="Any value.", minimum=1)'), ANY],
            r"cannot be built with its defaults: TypeError: '<' not supported",
            id="a range for what has none",
        ),
        pytest.param(
            "experiments",
            [("after > 2 * before", "after > 1000 * before")],
            r"claim 'mine-switches' of experiment 'mine' fails: after > 1000 \* before; "
            r"switches over 3 seeds: before = \d\S*, after = \d",
            id="a claim that fails",
        ),
        pytest.param(
            "experiments",
            [("arms = {", "harms = {")],
            r"mine\.toml: unknown key 'harms'.*did you mean 'arms'",
            id="a file with a mistake",
        ),
        pytest.param(
            "experiments",
            [("{ mine = {} }", "{ toy_short = {} }")],
            r"no arm of 'mine' uses it\n  mend: ship one in the folder 'experiments'",
            id="no experiment that uses it",
        ),
        pytest.param(
            "experiments",
            [("return SchedulerPolicy", "return 1 / 0 or SchedulerPolicy")],
            r"plugin 'mine', hook 'scheduler_policy': ZeroDivisionError",
            id="a run that ends with an exception",
        ),
        pytest.param(
            "experiments",
            [("quantum=self.turn)", "quantum=self.turn) and 7")],
            r"plugin 'mine', hook 'scheduler_policy': ",
            id="a run that ends with somebody else's exception",
        ),
        pytest.param(
            "deterministic",
            [("return SchedulerPolicy(quantum=self.turn)", "Mine.longer = getattr(Mine, 'longer', 1) + 1\n"
              "        return SchedulerPolicy(quantum=self.turn * Mine.longer)")],
            r"arm 'after', seed 1: run twice here, digest (\w{12}), then (?!\1)\w{12}\n  mend: what a plugin",
            id="a class that remembers",
        ),
        pytest.param(
            "deterministic",
            [("quantum=self.turn", "quantum=self.turn + hash('turn') % 1000 * 1000")],
            r"digest (\w{12}) with PYTHONHASHSEED=0, (?!\1)\w{12} with 4242\n  mend: sort",
            id="a hash that decides",
        ),
        pytest.param(
            "deterministic",
            [("quantum=self.turn", "quantum=self.turn * (1 + (machine.hook_mode == 'plain'))")],
            r"digest (\w{12}) with hooks called directly, (?!\1)\w{12} with hooks='plain'",
            id="a hook that asks how it is called",
        ),
        pytest.param(
            "off",
            [(DECORATED, "_create = Machine.create_process\n"
              "Machine.create_process = lambda self, name, **rest: _create(self, name + '!', **rest)\n\n"
              + DECORATED), ("before = {}", "before = { plugins = { mine = { turn = '0 ns' } } }")],
            r"'toy-turns', arm 'after', seed 1, which does not use it: digest (\w{12}) in a process of its "
            r"own, (?!\1)\w{12} here.*\n  mend: change nothing outside",
            id="a patch at import",
        ),
        pytest.param(
            "off",
            [("return SchedulerPolicy(", "Machine.create_process.__kwdefaults__['base_priority'] = 9\n"
              "        return SchedulerPolicy(")],
            r"'mine', arm 'before', seed 1, which does not use it: digest (\w{12}) in a process of its own, "
            r"(?!\1)\w{12} here, where the plugin was imported and run\n  mend: change nothing outside",
            id="a patch that a run leaves behind",
        ),
        pytest.param(
            "neutral",
            [("if self.turn else None", "if self.turn else SchedulerPolicy(quantum=1_000_000)")],
            r"arm 'after', seed 1: with turn = '0 ns' digest (\w{12}), without the plugin (?!\1)\w{12} "
            r"\(first_end: \S+ against \S+\)\n  mend: answer None",
            id="neutral options that do something",
        ),
        pytest.param(
            "neutral",
            [('neutral={"turn": "0 ns"}', 'neutral={"turns": 0}')],
            r"neutral 'turns': .*unknown option 'turns'.*did you mean 'turn'.*\n  mend: write it as in an",
            id="neutral options that are none",
        ),
        pytest.param(
            "own-means",
            [("from ntlab import", "import random\nfrom ntlab import"),
             ("quantum=self.turn", "quantum=self.turn + random.randrange(9)")],
            r"it drew from the random numbers that all of Python shares\n  mend: draw from machine\.streams",
            id="Python's own random numbers",
        ),
        pytest.param(
            "own-means",
            [("quantum=self.turn", "quantum=self.turn + machine.streams.stream('toy_base.x').randrange(9)")],
            r"hooks='checked': plugin 'mine', hook 'scheduler_policy': draws from the random stream of "
            r"'toy_base\.x'",
            id="another's random numbers",
        ),
        pytest.param(
            "own-means",
            [("return SchedulerPolicy(", "print('turn', self.turn)\n        return SchedulerPolicy(")],
            r"in a new process, importing and running it printed 'turn 5000000'\n  mend: print nothing",
            id="a hook that prints",
        ),
        pytest.param(
            "own-means",
            [(DECORATED, f"print('hello')\n{DECORATED}")],
            r"in a new process, importing and running it printed 'hello'",
            id="a module that prints",
        ),
        pytest.param(
            "own-means",
            [also("def ideal_processor(self) -> int:\n        return False")],
            r"hooks='checked': plugin 'mine', hook 'ideal_processor': ",
            id="an answer of the wrong type",
        ),
        pytest.param(
            "faults",
            [also("def thread_exited(self, thread: Thread) -> None:\n"
                  "        assert thread.process.name == 'runners', thread.process.name")],
            r"seed 1, with random faults: plugin 'mine', hook 'thread_exited': AssertionError: faults",
            id="an assumption that faults break",
        ),
        pytest.param(
            "claims",
            [('metric = "switches"', 'metric = "last_end"'), ("after > 2 * before", "after == before")],
            r"with no hook of it asked, claim 'mine-switches' of experiment 'mine' holds: after == before; "
            r"last_end over 3 seeds: before = (\S+), after = \1\n  mend: claim what.*'control = true' in",
            id="a claim about nothing",
        ),
        pytest.param(
            "claims",
            [('metric = "switches"', 'metric = "last_end"'), ("after > 2 * before", "after == before"),
             ("source =", "control = true\nsource =")],
            "",
            id="a control",
        ),
        pytest.param(
            "claims",
            [("source =", "control = true\nsource =")],
            r"marked as a control, but with no hook of it asked, claim 'mine-switches' .* fails: .*\n"
            r"  mend: it is about the mechanism: take 'control = true' out",
            id="a control that is none",
        ),
        pytest.param(
            "hooks",
            [also("def thread_exited(self, thread: Thread) -> None:\n        pass")],
            r"hook 'thread_exited': without it, nothing changes in any run of 'mine'\n"
            r'  mend: exercise it.*idle=\{"thread_exited": "why"\}',
            id="a hook that does nothing",
        ),
        pytest.param(
            "beside-others",
            [('before=("toy_short",),', "")],
            r"hook 'scheduler_policy' of plugin 'toy_short' is asked without it, never with it\n"
            r'  mend: answer None.*before=\("toy_short",\), or conflicts=\("toy_short",\)',
            id="who silences another",
        ),
        pytest.param(
            "beside-others",
            [also("def machine_booted(self, machine: Machine):\n        assert len(machine.plugins) == 2")],
            r"seed 1, with toy_rival on too: plugin 'mine', hook 'machine_booted': AssertionError",
            id="who must be alone",
        ),
    ],
)  # fmt: skip
def test_each_rule_catches_who_breaks_it(
    rule: str, changes: list[tuple[str, str]], told: str, install: Install
) -> None:
    install(*changes)
    found = outcome(rule)
    if told:
        assert found.startswith(f"plugin 'mine' breaks the rule {rule!r}: ")
        assert re.search(told, found), found
    else:
        assert found == ""


@pytest.mark.skipif(sys.executable == kit.PYTHON, reason="no newer Python is here")
def test_a_python_that_decides(install: Install) -> None:
    install(("quantum=self.turn", "quantum=self.turn + __import__('sys').version_info[1] * 1000"))
    told = r"digest (\w{12}) with \S+, (?!\1)\w{12} with \S+\n  mend: let nothing decide that one Python does"
    assert re.search(told, outcome("deterministic"))


def test_a_package_without_a_readme(install: Install) -> None:
    install(readme="")
    assert "there is no README.md beside ntlab_mine" in outcome("described")


def test_where_nothing_can_be_judged_it_says_so(install: Install) -> None:
    install(("return SchedulerPolicy", "return 1 / 0 or SchedulerPolicy"))
    for name in (
        "deterministic",
        "off",
        "neutral",
        "own-means",
        "faults",
        "claims",
        "hooks",
        "beside-others",
    ):
        assert outcome(name).startswith("not shown: its experiments do not run, see the rule 'experiments' (")


def test_an_experiment_that_has_it_everywhere_claims_nothing_of_it(install: Install) -> None:
    install(
        ("plugins = { toy_base = {} }", "plugins = { toy_base = {}, mine = {} }"),
        ("{ plugins = { mine = {} } }", "{}"),
    )
    assert outcome("claims") == "not shown: no claim compares arms with it and without it"


def test_a_plugin_that_can_only_be_alone_is_beside_nobody(install: Install) -> None:
    install(('before=("toy_short",),', 'conflicts=("toy_short", "toy_rival", "toy_raiser"),'))
    assert outcome("beside-others") == "not shown: no other plugin that is installed can be on with it"


def test_who_gives_way_is_not_silenced(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(('before=("toy_short",),', ""))
    assert "never with it" in outcome("beside-others")
    monkeypatch.setitem(installed().plugin("toy_short").info.cls.scheduler_policy.ntlab_impl, "trylast", True)
    assert outcome("beside-others") == ""


def test_idle_hooks_are_named_with_a_reason_and_only_while_they_are(install: Install) -> None:
    install(also("def thread_exited(self, thread: Thread) -> None:\n        pass"))
    assert outcome("hooks", idle={"thread_exited": "for later"}) == ""
    said = {"scheduler_policy": "who knows", "thread_ready": "what is that", "thread_exited": "for later"}
    found = outcome("hooks", idle=said)
    assert (
        "hook 'scheduler_policy' is said to be idle (who knows), but it changes experiment 'mine', arm"
        in found
    )
    assert "idle={'thread_ready': ...}, but it answers no such hook" in found
    assert "hook 'thread_exited'" not in found


def test_experiments_can_be_named_also_by_file(install: Install, tmp_path: Path) -> None:
    install(("after > 2 * before", "after > 1000 * before"))
    other = tmp_path / "other.toml"
    other.write_text(EXPERIMENT.replace('name = "mine"', 'name = "other"'))
    assert outcome("experiments", experiments=[str(other)]) == ""
    assert outcome("claims", experiments=["toy-turns"]) == (
        "not shown: no arm of its experiments uses it: nothing to compare"
    )


def test_the_page_lists_every_rule() -> None:
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE) == RULES
