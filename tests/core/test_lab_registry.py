"""What is installed, and the order plugins are asked in."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntlab
from distributions import TOY, write_distribution
from ntlab.errors import PluginError, UnknownNameError, UserError
from ntlab.lab.registry import installed
from ntlab.plugin import RELEASES, plugin_info
from ntlab.testing import boot
from registries import registry

Use = Callable[..., None]

AGES = (*RELEASES, None)
"""What a plugin may say of its release; what is of none is asked before all that is of one."""


def test_dependents_are_asked_first_then_later_releases_then_by_name() -> None:
    known = registry(
        base={"release": "ws2003"},
        old={"release": "ws2003"},
        b={"requires": ("base",)},
        a={},
        late={"release": "ws2008r2"},
    )
    assert known.solve(["base", "old", "a", "b", "late"]) == ["late", "a", "b", "base", "old"]


def test_after_and_before_win_over_what_is_implied() -> None:
    known = registry(base={}, polite={"requires": ("base",), "after": ("base",)}, z={"before": ("base",)})
    assert known.solve(["base", "polite", "z"]) == ["z", "base", "polite"]


def test_what_is_not_used_does_not_order() -> None:
    assert registry(a={"after": ("absent",)}, b={}).solve(["b", "a"]) == ["a", "b"]


@given(st.data())
def test_the_order_keeps_every_constraint_and_does_not_depend_on_the_listing(data: st.DataObject) -> None:
    names = [f"p{at}" for at in range(data.draw(st.integers(1, 7)))]
    said = {}
    for at, name in enumerate(names):  # constraints point to earlier names only, so there is no cycle
        others = st.lists(st.sampled_from(names[:at]), unique=True).map(tuple) if at else st.just(())
        said[name] = {"after": data.draw(others), "release": data.draw(st.sampled_from(AGES))}
    known = registry(**said)
    order = known.solve(names)
    assert sorted(order) == names
    assert known.solve(data.draw(st.permutations(names))) == order
    for name in names:
        for earlier in said[name]["after"]:
            assert order.index(earlier) < order.index(name)


def test_a_cycle_is_told_with_its_members() -> None:
    known = registry(a={"before": ("b",)}, b={"before": ("c",)}, c={"before": ("b",)}, d={"after": ("c",)})
    with pytest.raises(UserError, match=r"x.toml: arms.y: the order of the plugins is a cycle: b -> c -> b"):
        known.solve(["a", "b", "c", "d"], "x.toml: arms.y")


@pytest.mark.parametrize(
    ("said", "cycle"),
    [
        (
            {"a": {"after": ("b",)}, "b": {"after": ("a",)}},
            "a -> b -> a (b says after a, a says after b)",
        ),
        (
            {"a": {"after": ("b",), "before": ("b",)}, "b": {}},
            "a -> b -> a (a says before b, a says after b)",
        ),
        (
            {"a": {"requires": ("b",)}, "b": {"requires": ("a",)}},
            "a -> b -> a (a requires b, b requires a)",
        ),
        (
            {"a": {"requires": ("b",)}, "b": {"before": ("c",)}, "c": {"before": ("a",)}},
            "a -> b -> c -> a (a requires b, b says before c, c says before a)",
        ),
        # `a` requires `b`, and is asked after it since it says so: only what it says itself is told.
        (
            {"a": {"requires": ("b",), "after": ("b",)}, "b": {"after": ("a",)}},
            "(b says after a, a says after b)",
        ),
    ],
)
def test_a_cycle_is_told_with_who_says_what(said: dict[str, Any], cycle: str) -> None:
    with pytest.raises(UserError) as told:
        registry(**said).solve(said)
    assert cycle in str(told.value)


def test_a_conflict_names_both_and_who_says_so() -> None:
    known = registry(a={}, b={"conflicts": ("a",)}, c={"conflicts": ("d",)}, d={"conflicts": ("c",)})
    with pytest.raises(UserError, match="'a' and 'b' conflict, as 'b' says; expected one of them"):
        known.solve(["b", "a"])
    with pytest.raises(UserError, match="'c' and 'd' conflict, as 'c' and 'd' say;"):
        known.solve(["c", "d"])


@pytest.mark.parametrize("key", ["requires", "conflicts", "after", "before"])
@pytest.mark.parametrize(
    ("names", "told"), [(("a",), "names the plugin itself"), ("other", r"write \w+=\('other',\)")]
)
def test_names_of_plugins_that_cannot_be_meant(key: str, names: object, told: str) -> None:
    with pytest.raises(PluginError, match=rf"plugin 'a': {key}.*{told}"):
        registry(a={key: names})


def test_a_missing_plugin_is_named() -> None:
    known = registry(a={"requires": ("b",)}, b={}, e={"requires": ("bb",)}, f={"requires": ("zzz",)})
    with pytest.raises(
        UserError, match="plugin 'a' requires plugin 'b', which is not used; expected 'b' among"
    ):
        known.solve(["a"])
    with pytest.raises(
        UserError, match=r"'e' requires plugin 'bb', which is not installed \('b' is\); expected"
    ):
        known.solve(["e"])
    with pytest.raises(
        UserError, match=r"'zzz', which is not installed; expected a distribution .* 'test' should"
    ):
        known.solve(["f"])
    with pytest.raises(UnknownNameError, match="unknown plugin 'c'"):
        known.solve(["c"])


def test_why_a_plugin_is_asked_before_the_next() -> None:
    known = registry(
        base={"release": "ws2003"},
        old={"release": "ws2003"},
        b={"requires": ("base",), "before": ("a",)},
        a={},
        late={"release": "ws2008r2"},
    )
    order = known.solve(["base", "old", "a", "b", "late"])
    assert order == ["late", "b", "a", "base", "old"]
    assert known.why(order) == ["later release", "b says before a", "later release", "name"]


@given(st.data())
def test_every_reason_is_true(data: st.DataObject) -> None:
    names = [f"p{at}" for at in range(data.draw(st.integers(2, 6)))]
    said = {}
    for at, name in enumerate(names):
        others = st.lists(st.sampled_from(names[:at]), unique=True).map(tuple) if at else st.just(())
        said[name] = {"requires": data.draw(others), "release": data.draw(st.sampled_from(AGES))}
    known = registry(**said)
    order = known.solve(names)
    for (one, then), reason in zip(pairwise(order), known.why(order), strict=True):
        ages = [AGES.index(said[name]["release"]) for name in (one, then)]
        if reason in ("later release", "of no release"):
            assert ages[0] > ages[1]
            assert (reason == "of no release") == (said[one]["release"] is None)
        elif reason == "name":
            assert ages[0] == ages[1]
            assert one < then
        else:
            assert reason == f"{one} requires {then}"
            assert then in said[one]["requires"]


def test_what_is_said_of_plugins_that_are_not_installed() -> None:
    known = registry(a={"after": ("zebra", "b"), "conflicts": ("baze",)}, b={}, base={})
    assert known.idle(["a", "b"]) == [
        "a says after 'zebra', which is not installed",
        "a says conflicts 'baze', which is not installed; did you mean 'base'?",
    ]


def test_presets_are_what_plugins_say() -> None:
    known = registry(
        base={"release": "ws2003"},
        queue={"release": "ws2008"},
        new_queue={"release": "ws2008r2", "conflicts": ("queue",)},
    )
    assert known.preset("ws2003") == ["base"]
    assert known.preset("ws2008") == ["base", "queue"]
    assert known.preset("ws2008r2") == ["base", "new_queue"]
    with pytest.raises(UnknownNameError, match="did you mean 'ws2008'"):
        known.preset("ws2009")


def test_a_plugin_of_no_release_is_in_no_preset_and_asked_before_those_of_all() -> None:
    known = registry(base={"release": "ws2003"}, late={"release": "ws2008r2"}, other={"release": None})
    assert known.preset("ws2008r2") == ["base", "late"]
    assert known.solve(["base", "late", "other"]) == ["other", "late", "base"]
    assert known.plugin("other").info.release is None
    assert plugin_info(known.plugin("other").info.cls).age == len(RELEASES)


def test_the_machine_is_of_the_latest_release_of_its_plugins() -> None:
    def of(*releases: str | None) -> str:
        known = registry(**{f"p{at}": {"release": release} for at, release in enumerate(releases)})
        return boot(plugins=[known.plugin(name).info.cls() for name in known.names()]).release

    assert of(None, "ws2008", None, "ws2003") == "ws2008"
    assert of(None) == of() == "ws2003"


def test_installed_plugins_are_found(toy: None) -> None:
    found = installed()
    assert found.names() == ["toy_base", "toy_raiser", "toy_rival", "toy_short"]
    short = found.plugin("toy_short")
    assert (short.distribution, short.version) == ("ntlab-toy", "1.0")
    assert short.hooks == ["scheduler_policy"]
    assert short.info == plugin_info(short.info.cls)
    assert list(found.plugin("toy_base").workloads) == ["runners"]
    assert {name: owner for name, (owner, _) in found.experiment_files.items()} == {
        "toy-turns": "toy_base",
        "toy-wrong": "toy_base",
    }
    with pytest.raises(UnknownNameError, match=r"unknown plugin 'toy_bass'.*'toy_base'"):
        found.plugin("toy_bass")
    with pytest.raises(UnknownNameError, match="unknown workload 'walkers'"):
        found.workload("toy_base.walkers")
    with pytest.raises(UserError, match=r"expected PLUGIN.WORKLOAD"):
        found.workload("runners")


def test_one_broken_plugin_is_named_and_hinders_no_other(tmp_path: Path, installed_only: Use) -> None:
    write_distribution(
        tmp_path,
        "ntlab-broken",
        plugins={"broken": "ntlab_broken:Broken", "absent": "ntlab_absent:Absent", "odd": "ntlab_odd:Odd"},
        modules={"ntlab_broken.py": "raise RuntimeError('not today')", "ntlab_odd.py": "class Odd: pass"},
    )
    installed_only(TOY, tmp_path)
    found = installed()
    assert found.plugin("toy_base").info.name == "toy_base"
    assert len(found.experiment_files) == 2
    with pytest.raises(PluginError, match=r"plugin 'broken': .* 'ntlab-broken': RuntimeError: not today"):
        _ = found.plugin("broken").info
    with pytest.raises(PluginError, match=r"plugin 'absent': .* 'ntlab-broken': ModuleNotFoundError"):
        _ = found.plugin("absent").info
    with pytest.raises(PluginError, match="plugin 'Odd': is not a plugin"):
        _ = found.plugin("odd").info


def test_a_plugin_has_one_name(tmp_path: Path, installed_only: Use) -> None:
    source = "from ntlab import plugin\n@plugin(name='one', summary='', release='ws2003')\nclass One: pass\n"
    write_distribution(
        tmp_path, "ntlab-one", plugins={"two": "ntlab_one:One"}, modules={"ntlab_one.py": source}
    )
    installed_only(tmp_path)
    with pytest.raises(PluginError, match=r"plugin 'two': .*'ntlab-one'.*name='one'"):
        _ = installed().plugin("two").info


def test_two_distributions_with_one_name_are_told(tmp_path: Path, installed_only: Use) -> None:
    write_distribution(tmp_path, "ntlab-copy", plugins={"toy_base": "ntlab_copy:Base"}, modules={})
    installed_only(TOY, tmp_path)
    with pytest.raises(PluginError, match=r"plugin 'toy_base': .*'ntlab-copy' and 'ntlab-toy'"):
        _ = installed().plugin("toy_base").info
    assert installed().plugin("toy_rival").info.name == "toy_rival"


def test_entry_points_are_read_without_importing(toy: None, monkeypatch: pytest.MonkeyPatch) -> None:

    def refuse(self: metadata.EntryPoint) -> Any:
        raise AssertionError(f"{self.name} is imported")

    monkeypatch.setattr(metadata.EntryPoint, "load", refuse)
    assert len(installed().names()) == 4
    assert len(installed().experiment_files) == 2


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("limit: int", "missing 1 required positional argument: 'limit'"),
        ("limit: int = option(default=1, help='', minimum=2)", "1 is out of range; expected at least 2"),
        ("limit: Nope = option(default=1, help='')", "name 'Nope' is not defined"),
    ],
)
def test_options_that_cannot_be_are_the_plugin_s_fault(
    tmp_path: Path, installed_only: Use, body: str, told: str
) -> None:
    source = (
        "from __future__ import annotations\nfrom ntlab import option, plugin\n"
        f"@plugin(name='one', summary='', release='ws2003')\nclass One:\n    {body}\n"
    )
    write_distribution(
        tmp_path, "ntlab-one", plugins={"one": "ntlab_one:One"}, modules={"ntlab_one.py": source}
    )
    installed_only(tmp_path)
    with pytest.raises(PluginError, match=f"plugin 'one': .*{told}"):
        _ = installed().plugin("one").info


def test_a_module_that_exits_is_named(tmp_path: Path, installed_only: Use) -> None:
    modules = {"ntlab_one.py": "raise SystemExit(7)"}
    write_distribution(tmp_path, "ntlab-one", plugins={"one": "ntlab_one:One"}, modules=modules)
    installed_only(tmp_path)
    with pytest.raises(PluginError, match=r"plugin 'one': .*SystemExit: 7"):
        _ = installed().plugin("one").info


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        ("", "the workload 'w' has no method 'measure'"),
        ("def measure(self, machine): return None", "measured None; expected Metrics"),
        ("def measure(self, machine): return [5]", "measured 5; expected a Metric"),
        ("def measure(self, machine): return [Metric('m', 'x')]", "measured 'm' as 'x'"),
        ("def measure(self, machine): raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_workload_that_breaks_its_contract_is_named(
    tmp_path: Path, installed_only: Use, measure: str, told: str
) -> None:
    source = (
        "from ntlab import Metric, plugin, workload\n"
        "@workload(name='w', summary='')\nclass W:\n    def start(self, machine): pass\n"
        f"    {measure}\n"
        "@plugin(name='one', summary='', release='ws2003', workloads=(W,))\nclass One: pass\n"
    )
    write_distribution(
        tmp_path, "ntlab-one", plugins={"one": "ntlab_one:One"}, modules={"ntlab_one.py": source}
    )
    installed_only(tmp_path)
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\nhardware = "uni"\nworkload = { use = "one.w" }\narms = { a = {} }\n')
    with pytest.raises(PluginError, match=f"plugin 'one': .*{told}"):
        ntlab.run(file)


@pytest.mark.parametrize("returned", ["None", "['a']", "{'a': 1}", "{1: str}", "1 / 0"])
@pytest.mark.parametrize("part", ["W", "One"])
def test_views_that_are_no_dictionary_of_functions_are_named(
    tmp_path: Path, installed_only: Use, part: str, returned: str
) -> None:
    views = {"W": "", "One": "", part: f"    def views(self): return {returned}\n"}
    source = (
        "from ntlab import plugin, workload\n"
        "@workload(name='w', summary='')\nclass W:\n"
        f"    def start(self, machine): pass\n    def measure(self, machine): return []\n{views['W']}"
        "@plugin(name='one', summary='', release='ws2003', workloads=(W,))\n"
        f"class One:\n    pass\n{views['One']}"
    )
    write_distribution(
        tmp_path, "ntlab-one", plugins={"one": "ntlab_one:One"}, modules={"ntlab_one.py": source}
    )
    installed_only(tmp_path)
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\nhardware = "uni"\nworkload = { use = "one.w" }\n'
        "plugins = { one = {} }\narms = { a = {} }\n"
    )
    told = rf"plugin 'one': {part}\.views\(\).*(expected a dictionary|ZeroDivisionError)"
    with pytest.raises(PluginError, match=told):
        ntlab.view(file, "a")
    with pytest.raises(PluginError, match=told):
        ntlab.plugins("one").to_json()


@pytest.mark.parametrize("returned", ["None", "5", "['a']", "b'a'"])
def test_a_view_that_is_no_text_is_named(tmp_path: Path, installed_only: Use, returned: str) -> None:
    source = (
        "from ntlab import plugin\n@plugin(name='one', summary='', release='ws2003')\n"
        f"class One:\n    def views(self): return {{'mine': lambda machine: {returned}}}\n"
    )
    write_distribution(
        tmp_path, "ntlab-one", plugins={"one": "ntlab_one:One"}, modules={"ntlab_one.py": source}
    )
    installed_only(TOY, tmp_path)
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\nhardware = "uni"\nworkload = { use = "toy_base.runners" }\n'
        "plugins = { one = {} }\narms = { a = {} }\n"
    )
    with pytest.raises(PluginError, match=r"plugin 'one': its view 'mine' gave .*; expected a text"):
        ntlab.view(file, "mine")


# One of them is broken


BROKEN = {
    "import": "raise RuntimeError('not today')",
    "workload": (
        "from ntlab import plugin, workload\n"
        "@workload(name='w', summary='')\nclass W: pass\n"
        "@plugin(name='broken', summary='', release='ws2008', workloads=(W,))\nclass Broken: pass\n"
    ),
    "views": (
        "from ntlab import plugin\n"
        "@plugin(name='broken', summary='', release='ws2008')\n"
        "class Broken:\n    def views(self): return 5\n"
    ),
}
CLAIMS = """
name = "broken-one"
hardware = "uni"
ledger = ["B1"]
workload = { use = "toy_base.runners" }
plugins = { broken = {} }
arms = { a = {}, b = {} }
claims = [{ id = "broken-claim", metric = "switches", expect = "a <= b" }]
"""


@pytest.fixture(params=list(BROKEN))
def broken(request: pytest.FixtureRequest, tmp_path: Path, installed_only: Use) -> str:
    """A distribution beside the toy's whose plugin cannot be used, with an experiment that uses it."""
    write_distribution(
        tmp_path,
        "ntlab-broken",
        plugins={"broken": "ntlab_broken:Broken"},
        modules={
            "ntlab_broken/__init__.py": BROKEN[request.param],
            "ntlab_broken/experiments/one.toml": CLAIMS,
        },
    )
    installed_only(TOY, tmp_path)
    return str(request.param)


TOYS = ["toy_base", "toy_raiser", "toy_rival", "toy_short"]


def test_a_broken_plugin_is_left_out_and_named(broken: str) -> None:
    listed = ntlab.plugins()
    assert (
        [plugin.name for plugin in listed.plugins] == [plugin["name"] for plugin in listed.to_json()] == TOYS
    )
    reference = ntlab.hook_reference()
    assert any(hook.name == "scheduler_policy" and len(hook.answers) == 3 for hook in reference.hooks)
    for report in (listed, reference):
        (fault,) = report.faults
        assert "plugin 'broken'" in str(fault)
        assert str(fault) in repr(report)
        assert "left out" in report._repr_html_()
    with pytest.raises(PluginError, match="plugin 'broken'"):
        ntlab.plugins("broken")


def test_an_experiment_without_the_broken_plugin_runs(broken: str) -> None:
    assert ntlab.run("toy-turns", seeds=1).runs


def test_experiments_of_a_broken_plugin_are_left_out(tmp_path: Path, installed_only: Use) -> None:
    write_distribution(
        tmp_path,
        "ntlab-broken",
        plugins={"broken": "ntlab_broken:Broken"},
        modules={
            "ntlab_broken/__init__.py": BROKEN["import"],
            "ntlab_broken/experiments/one.toml": CLAIMS,
            "ntlab_broken/experiments/same.toml": CLAIMS.replace("broken-one", "other"),
            "ntlab_broken/experiments/torn.toml": "name =",
            "ntlab_broken/experiments/twice.toml": CLAIMS.replace("broken-one", "toy-wrong"),
        },
    )
    installed_only(TOY, tmp_path)
    listed = ntlab.experiments()
    assert [experiment.name for experiment in listed.experiments] == ["toy-turns"]
    faults = sorted(str(fault) for fault in listed.faults)
    assert len(faults) == 3  # two of the experiments fail for the same reason
    assert "torn.toml: is not valid TOML" in faults[0]
    assert faults[1].startswith("plugin 'broken': cannot be imported")
    assert "an experiment 'toy-wrong', which plugin" in faults[2]
    for name, told in (("torn", "is not valid TOML"), ("toy-wrong", "ships too"), ("other", "not today")):
        with pytest.raises((UserError, PluginError), match=told):
            ntlab.run(name)


@pytest.mark.parametrize("broken", ["import"], indirect=True)
def test_claims_that_do_not_need_the_broken_plugin_are_judged(broken: str) -> None:
    assert ntlab.claims(["X2"]).holds
    assert ntlab.claims(["toy-turns"]).holds
    for ids in ([], ["broken"], ["broken-one"], ["broken-claim"], ["B1"], ["toy-turns", "B1"]):
        with pytest.raises(PluginError, match="plugin 'broken'"):
            ntlab.claims(ids)
    with pytest.raises(UnknownNameError, match=r"'broken-clam'.*'broken-claim'"):
        ntlab.claims(["broken-clam"])


def test_a_release_needs_to_know_of_every_plugin(tmp_path: Path, installed_only: Use) -> None:
    write_distribution(
        tmp_path, "ntlab-broken", plugins={"broken": "ntlab_broken:B"}, modules={"ntlab_broken.py": "1 / 0"}
    )
    installed_only(TOY, tmp_path)
    with pytest.raises(UserError, match=r"x: which plugins belong to 'ws2008' .*plugin 'broken'.*; expected"):
        installed().preset("ws2008", "x")
