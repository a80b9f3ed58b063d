"""The hook reference and the call order: what they say is what the specifications and the binding say."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hook_reference
import ntlab
from distributions import TOY, write_distribution
from ntlab._version import __version__
from ntlab.errors import PluginError, UnknownNameError, UserError
from ntlab.hooks import contract_of, implementations, specifications
from ntlab.lab.order import ArmOrder
from ntlab.lab.reference import Hook
from ntlab.machine import Machine
from ntlab.topology import load

Use = Callable[..., None]

SPECIFIES = """
'''Prices of bread.'''
from __future__ import annotations
from typing import TYPE_CHECKING
from ntlab import hookspec, observer
from ntlab.hooks import since
if TYPE_CHECKING:
    from collections.abc import Sequence
    from ntlab.machine import Machine
    from ntlab.machine.threads import Thread

Price = int

@since("1.1")
@hookspec(firstresult=True)
def bread_price(machine: Machine, loaves: int) -> Price | None:
    '''What so many
    loaves cost. In cents.

    None: they are free.
    '''

@hookspec
def bread_buyers(machine: Machine) -> Sequence[Thread] | None:
    '''Who buys.'''

@hookspec(warn_on_impl=DeprecationWarning("use bread_sold"))
def bread_gone(machine):
    '''Out of bread.'''

@observer
def bread_sold(machine, loaves):
    '''Sold.'''
"""
PLUGIN = """
from ntlab import hookimpl, plugin
{imports}
@plugin(name='{name}', summary='', release='ws2008', {words})
class P:
{body}
"""


def write_plugins(folder: Path, **plugins: tuple[str, str, str]) -> None:
    """A distribution of these plugins: name -> what it imports, says of itself, and its methods."""
    modules = {"ntlab_bread_hooks.py": SPECIFIES}
    for name, (imports, words, body) in plugins.items():
        source = PLUGIN.format(imports=imports, name=name, words=words, body=body or "    pass")
        modules[f"ntlab_{name}.py"] = source
    entries = {name: f"ntlab_{name}:P" for name in plugins}
    write_distribution(folder, "ntlab-bread", plugins=entries, modules=modules)


BAKERS = {
    "baker": (
        "import ntlab_bread_hooks",
        "hookspecs=(ntlab_bread_hooks,)",
        "    @hookimpl\n    def bread_price(self): return 5\n    @hookimpl\n    def bread_sold(self): pass",
    ),
    "agent": (
        "",
        "requires=('baker',)",
        "    @hookimpl(wrapper=True)\n    def bread_price(self):\n        return (yield) + 1\n"
        "    @hookimpl(trylast=True)\n    def bread_sold(self): pass",
    ),
    "lord": (
        "",
        "requires=('baker',), after=('agent',)",
        "    @hookimpl(tryfirst=True)\n    def bread_price(self): return None\n"
        "    @hookimpl(specname='bread_buyers')\n    def who(self): return []",
    ),
}


def hook(name: str) -> Hook:
    (found,) = ntlab.hook_reference(name).hooks
    return found


def test_a_hook_is_what_its_specification_says(toy: None) -> None:
    found = hook("choose_processor")
    from ntlab.hooks import scheduling

    assert found.kind == "decision"
    assert found.expects == contract_of(scheduling.choose_processor, "ntlab").text != ""
    assert found.signature == "(thread: Thread, idle: int) -> int | None"
    assert found.imports == ("from ntlab.machine import Thread",)
    assert found.text == inspect.getdoc(scheduling.choose_processor)
    assert (found.domain, found.since) == ("scheduling", "ntlab 0.1")
    line = Path(found.file).read_text(encoding="utf-8").splitlines()[found.line - 1]
    assert line == "@hookspec(firstresult=True)"
    assert found.answers == ()
    assert hook("run_limit").kind == "collection"
    assert hook("context_switched").kind == "observer"
    assert hook("completion_plan").imports == (
        "from ntlab.hooks.io import CompletionPlan",
        "from ntlab.machine import IoRequest",
    )
    with pytest.raises(UnknownNameError, match=r"unknown hook 'chose_processor'.*'choose_processor'"):
        ntlab.hook_reference("chose_processor")


def test_every_specified_hook_is_in_the_reference(toy: None) -> None:
    names = {
        name
        for module in specifications()
        for name, one in vars(module).items()
        if hasattr(one, "ntlab_spec")
    }
    hooks = ntlab.hook_reference().hooks
    assert len(hooks) == len(names)
    assert {one.name for one in hooks} == names
    assert len(ntlab.hook_reference().columns()["name"]) == len(names)


def test_the_imports_of_a_hook_are_those_that_it_needs() -> None:
    for one in ntlab.hook_reference().hooks:
        names: dict[str, Any] = {}
        for statement in one.imports:
            exec(statement, names)
        stub = f"def {one.name}{one.signature}: ..."
        exec(stub, names)  # the annotations are evaluated


@pytest.mark.parametrize("module", specifications(), ids=lambda module: module.__name__.rpartition(".")[2])
def test_built_in_specifications_say_what_an_author_needs(module: ModuleType, toy: None) -> None:
    domain = module.__name__.rpartition(".")[2]
    for one in ntlab.hook_reference().hooks:
        if one.domain == domain:
            said = " ".join(one.text.split())
            assert " -> " in one.signature, f"{one.name} says no type of its answer"
            assert "2003" in said, f"{one.name} does not say what 2003 did"
            if one.kind != "observer":
                assert "Asked" in said, f"{one.name} does not say when it is asked"
                assert "None" in said, f"{one.name} does not say what None means"
            major, minor = one.since.removeprefix("ntlab ").split(".")
            assert [int(major), int(minor)] <= [int(part) for part in __version__.split(".")[:2]]


def test_the_page_of_hooks_is_what_the_specifications_say() -> None:
    page = hook_reference.PAGE.read_text(encoding="utf-8")
    assert hook_reference.rendered(page) == page, "python tests/hook_reference.py writes it anew"


def test_links_in_the_page_lead_to_headings() -> None:
    page = hook_reference.PAGE.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([^)]*)\)", page)
    assert len(links) > len(ntlab.hook_reference().domains)
    assert set(links) <= anchors


def test_hooks_that_plugins_specify(tmp_path: Path, installed_only: Use) -> None:
    write_plugins(tmp_path, **BAKERS)
    installed_only(TOY, tmp_path)
    price = hook("bread_price")
    assert (price.domain, price.since) == ("baker.ntlab_bread_hooks", "ntlab-bread 1.1")
    assert price.summary == "What so many loaves cost."
    assert price.imports == ("from ntlab.machine import Machine", "from ntlab_bread_hooks import Price")
    assert [str(answer) for answer in price.answers] == ["agent (wrapper)", "lord (tryfirst)", "baker"]
    buyers = hook("bread_buyers")
    assert (buyers.kind, buyers.since) == ("collection", "the first version of ntlab-bread")
    assert buyers.imports == (
        "from collections.abc import Sequence",
        "from ntlab.machine import Machine, Thread",
    )
    assert [str(answer) for answer in buyers.answers] == ["lord"]
    sold = hook("bread_sold")
    assert (sold.kind, sold.signature) == ("observer", "(machine, loaves)")
    assert [str(answer) for answer in sold.answers] == ["baker", "agent (trylast)"]
    text = ntlab.hook_reference("bread_price").markdown()
    assert "## plugin baker.ntlab_bread_hooks" in text
    assert "Prices of bread." in text
    assert "def bread_price(machine: Machine, loaves: int) -> Price | None: ..." in text


def test_a_hook_that_is_to_go_warns_whoever_implements_it(tmp_path: Path, installed_only: Use) -> None:
    guest = ("", "requires=('baker',)", "    @hookimpl\n    def bread_gone(self): pass")
    write_plugins(tmp_path, baker=BAKERS["baker"], guest=guest)
    installed_only(TOY, tmp_path)
    with pytest.warns(DeprecationWarning, match="use bread_sold"):
        reference = ntlab.hook_reference("bread_gone")
    (gone,) = reference.hooks
    assert gone.deprecated == "use bread_sold"
    assert [answer.plugin for answer in gone.answers] == ["guest"]
    assert "**deprecated**: use bread_sold" in reference.markdown()


@pytest.mark.parametrize(
    ("guest", "told"),
    [
        (
            ("", "", "    @hookimpl\n    def bread_prize(self): pass"),
            r"plugin 'guest', hook 'bread_prize': unknown",
        ),
        (
            ("", "", "    @hookimpl\n    def bread_price(self, machin): pass"),
            "plugin 'guest', hook 'bread_price': unknown argument 'machin'",
        ),
        (
            ("import ntlab_bread_hooks", "hookspecs=(ntlab_bread_hooks,)", ""),
            "'ntlab_bread_hooks', or is|plugin 'ntlab_bread_hooks': specifies no hook, or is listed twice",
        ),
        (
            ("from ntlab.hooks import locks", "hookspecs=(locks,)", ""),
            "plugin 'ntlab.hooks.locks': specifies no hook, or is listed twice",
        ),
        (("", "after=('baker',), before=('baker',)", ""), "a cycle: baker -> guest -> baker"),
    ],
)
def test_plugins_whose_hooks_cannot_be_bound_are_left_out(
    guest: tuple[str, str, str], told: str, tmp_path: Path, installed_only: Use
) -> None:
    write_plugins(tmp_path, **BAKERS, guest=guest)
    installed_only(TOY, tmp_path)
    reference = ntlab.hook_reference()
    (fault,) = reference.faults
    assert re.search(told, str(fault))
    (price,) = reference.of(["bread_price"]).hooks
    assert {answer.plugin for answer in price.answers} == {"agent", "lord", "baker"}


# The call order of an experiment


EXPERIMENT = """
name = "mine"
hardware = "uni"
workload = { use = "toy_base.runners" }
[plugins]
toy_base = {}
[arms.bare]
[arms.same]
workload = { threads = 2 }
[arms.full.plugins]
toy_raiser = { where = "thread" }
toy_short = {}
"""


def order_in(folder: Path, text: str, arm: str | None = None) -> dict[str, ArmOrder]:
    file = folder / "mine.toml"
    file.write_text(text)
    return {" ".join(order.arms): order for order in ntlab.plugin_order(file, arm).orders}


def test_the_order_of_an_experiment(toy: None, tmp_path: Path) -> None:
    orders = order_in(tmp_path, EXPERIMENT)
    assert list(orders) == ["bare same", "full"]
    full = orders["full"]
    assert full.plugins == ("toy_short", "toy_base", "toy_raiser")
    assert full.why == ("toy_short requires toy_base", "toy_raiser says after toy_base")
    kind, calls = full.hooks["scheduler_policy"]
    assert (kind, [str(call) for call in calls]) == (
        "decision",
        ["toy_raiser (tryfirst)", "toy_short", "toy_base"],
    )
    assert full.hooks["thread_exited"][0] == "observer"
    assert list(order_in(tmp_path, EXPERIMENT, "same")) == ["same"]
    with pytest.raises(UnknownNameError, match="unknown arm 'ful'"):
        order_in(tmp_path, EXPERIMENT, "ful")


def test_the_order_shown_is_the_order_in_which_a_machine_calls(tmp_path: Path, installed_only: Use) -> None:
    write_plugins(tmp_path, **BAKERS)
    installed_only(TOY, tmp_path)
    text = EXPERIMENT + "baker = {}\nlord = {}\nagent = {}\n"
    order = order_in(tmp_path, text)["full"]
    plugins = [ntlab.lab.registry.installed().plugin(name).info.cls() for name in order.plugins[::-1]]
    machine = Machine(load("uni").freeze(), plugins)
    bound = {name: names for name, names in implementations(machine.manager).items() if names}
    assert {name: [call.plugin for call in calls] for name, (_, calls) in order.hooks.items()} == bound
    assert [str(call) for call in order.hooks["bread_price"][1]] == [
        "agent (wrapper)",
        "lord (tryfirst)",
        "baker",
    ]
    assert machine.hooks.bread_price(machine, 1) == 6


def test_what_cannot_be_bound_is_told_as_a_run_would(tmp_path: Path, installed_only: Use) -> None:
    write_plugins(tmp_path, guest=("", "", "    @hookimpl\n    def bread_price(self): pass"))
    installed_only(TOY, tmp_path)
    with pytest.raises(PluginError, match="plugin 'guest', hook 'bread_price': unknown hook"):
        order_in(tmp_path, EXPERIMENT + "guest = {}\n")


@pytest.mark.parametrize(
    ("plugins", "told"),
    [
        ("toy_short = {}\ntoy_rival = {}\n", "'toy_rival' and 'toy_short' conflict, as 'toy_rival' says"),
        (
            "toy_rival = {}\nhen = {}\negg = {}\n",
            "a cycle: egg -> hen -> egg (hen says after egg, egg says after hen)",
        ),
        ("alone = {}\n", "plugin 'alone' requires plugin 'toy_bas', which is not installed ('toy_base' is)"),
    ],
)
def test_an_order_that_cannot_be_is_one_clear_error(
    tmp_path: Path, installed_only: Use, plugins: str, told: str
) -> None:
    write_plugins(
        tmp_path,
        hen=("", "after=('egg',)", ""),
        egg=("", "after=('hen',)", ""),
        alone=("", "requires=('toy_bas',)", ""),
    )
    installed_only(TOY, tmp_path)
    with pytest.raises(UserError) as error:
        order_in(tmp_path, EXPERIMENT.replace("toy_short = {}\n", "") + plugins)
    assert told in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'mine.toml'}: arms.full: ")


def test_what_has_no_effect_on_the_order_is_told(tmp_path: Path, installed_only: Use) -> None:
    write_plugins(tmp_path, guest=("", "after=('toy_bas',)", ""))
    installed_only(TOY, tmp_path)
    order = order_in(tmp_path, EXPERIMENT + "guest = {}\n")["full"]
    assert order.idle == ("guest says after 'toy_bas', which is not installed; did you mean 'toy_base'?",)


def test_a_long_text_is_wrapped_where_it_must_be(toy: None) -> None:
    found = hook("run_limit")
    wide, narrow = ([row[0] for row in found.tables(width)[0].rows] for width in (1000, 40))
    assert wide == found.text.splitlines()
    assert max(map(len, narrow)) <= 40
    assert " ".join(narrow).split() == found.text.split()


def test_the_order_has_columns_and_reads_well(toy: None, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(EXPERIMENT)
    order = ntlab.plugin_order(file)
    columns = order.columns()
    rows = zip(
        columns["arm"], columns["hook"], columns["place"], columns["plugin"], columns["how"], strict=True
    )
    assert ("full", "scheduler_policy", 1, "toy_raiser", ["tryfirst"]) in rows
    assert "mine: bare, same" in repr(order)
