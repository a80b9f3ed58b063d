"""Ablation: factors, combinations and estimates, on plugins whose effects are known exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntlab
from ntlab.errors import PluginError, UnknownNameError, UserError
from ntlab.lab.ablation import Ablation, Factor, combined, differences, needed, parse_factor
from ntlab.lab.api import Interrupted
from ntlab.lab.designs import bits, feasible
from ntlab.lab.experiment import Arm
from ntlab.lab.statistics import Estimate, estimate
from registries import registry

EFFECTS = Path(__file__).parents[1] / "effects"

Make = Callable[..., Ablation]


@pytest.fixture
def file(tmp_path: Path, installed_only: Callable[..., None]) -> Path:
    installed_only(EFFECTS)
    return tmp_path / "mine.toml"


@pytest.fixture
def ablate(file: Path) -> Make:
    """Ablate an experiment between an arm without plugins and one with these, or between these arms."""

    def make(
        value: str, high: str = "a = {}, b = {}", low: str = "", *, more: str = "", **asked: Any
    ) -> Ablation:
        file.write_text(
            f"""
            name = "mine"
            hardware = "uni"
            workload = {{ use = "base.formula", value = "{value}" }}
            plugins = {{ base = {{}} }}
            [arms.low]
            plugins = {{ {low} }}
            [arms.high]
            plugins = {{ {high} }}
            {more}
            """
        )
        return ntlab.ablate(file, **{"metric": "value", **asked})

    return make


def numbers(found: Ablation) -> dict[str, tuple[float, ...]]:
    """Each factor's alone, last, average and Shapley value; all exact numbers."""
    effects = {}
    for factor in found.factors:
        assert factor.shapley is not None
        estimates = (factor.alone, factor.last, factor.main, factor.shapley)
        assert all(one.low == one.mean == one.high for one in estimates)
        effects[factor.factor.name] = tuple(one.mean for one in estimates)
    return effects


# What is estimated


def test_an_additive_effect_is_told_apart_exactly(ablate: Make) -> None:
    found = ablate("10 + 3 * a + 4 * b - c", "a = { size = 2 }, b = {}, c = {}", seeds=3)
    assert found.whole == Estimate(9, 9, 9, 3)
    assert numbers(found) == {"a": (6,) * 4, "b": (4,) * 4, "c": (-1,) * 4}
    assert {one.factor.name: one.share for one in found.factors} == {"a": 6 / 9, "b": 4 / 9, "c": -1 / 9}
    assert [interaction.effect for interaction in found.interactions] == [Estimate(0, 0, 0, 3)] * 2
    assert "all 2" in repr(found)


def test_a_product_is_an_interaction(ablate: Make) -> None:
    found = ablate("a + 5 * a * b", seeds=1)
    assert numbers(found) == {"a": (1, 6, 3.5, 3.5), "b": (0, 5, 2.5, 2.5)}
    (interaction,) = found.interactions
    assert (interaction.factors, interaction.effect) == (("a", "b"), Estimate(5, 5, 5, 1))


def test_interactions_of_more_are_shown_if_asked_for(ablate: Make) -> None:
    plugins = "a = {}, b = {}, f = { size = 1, more = 0 }"
    assert len(ablate("a * b * f", plugins).interactions) == 3
    found = ablate("a * b * f", plugins, order=3)
    assert [(one.factors, one.effect.mean) for one in found.interactions] == [
        (("a", "b"), 0.5), (("a", "f"), 0.5), (("b", "f"), 0.5), (("a", "b", "f"), 1),
    ]  # fmt: skip


def test_seeds_are_paired(ablate: Make) -> None:
    # Luck differs from seed to seed and cancels; where it multiplies, the interval is of what is left.
    found = ablate("1000 * luck + a + b * luck", seeds=4)
    luck = [run.metrics["luck"] for run in found.runs if run.arm == "c_00"]
    assert len(set(luck)) == 4
    a, b = found.factors
    assert a.main == Estimate(1, 1, 1, 4)
    expected = estimate(luck)
    found_ends = (b.main.low, b.main.mean, b.main.high)
    assert found_ends == pytest.approx((expected.low, expected.mean, expected.high))
    assert expected.low < expected.mean
    assert found.values[0] == [1000 * each for each in luck]


def test_rounding_of_the_metric_is_no_effect(ablate: Make) -> None:
    found = ablate("0.1 + 0.2 * a + 0.7 * b", seeds=2)
    assert 0.1 + 0.2 + 0.7 - (0.1 + 0.7) - (0.1 + 0.2) + 0.1 != 0
    assert found.interactions[0].effect == Estimate(0, 0, 0, 2)


def test_no_share_where_the_whole_may_be_nothing(ablate: Make) -> None:
    assert [factor.share for factor in ablate("a - b").factors] == [None, None]
    assert [factor.share for factor in ablate("0").factors] == [None, None]
    assert [factor.share for factor in ablate("(luck - 0.5) * a", seeds=3).factors] == [None, None]


def test_another_metric_of_the_same_runs(ablate: Make) -> None:
    found = ablate("a", metric="luck")
    assert found.whole.mean == 0
    assert found.of("value").whole.mean == 1
    with pytest.raises(UnknownNameError, match=r"unknown metric 'lick'.*did you mean 'luck'"):
        found.of("lick")


# What needs what


def test_a_plugin_counts_only_where_what_it_requires_is_on(ablate: Make) -> None:
    found = ablate("10 * a + b + 100 * c + 7 * a * c", "a = {}, b = {}, c = {}")
    orders = [" ".join(arm.plugins) for arm in found.experiment.arms.values()]
    assert orders == ["base", "a base", "b base", "a b base", "c b base", "a c b base"]
    effects = {name: (alone, last) for name, (alone, last, _, _) in numbers(found).items()}
    assert effects == {"a": (10, 17), "b": (1, 1), "c": (100, 107)}
    assert {one.factor.name: one.needs for one in found.factors} == {"a": (), "b": (), "c": ("b",)}
    # a before c in two of the three orders in which they can be switched on.
    assert {name: four[3] for name, four in numbers(found).items()} == pytest.approx(
        {"a": 10 + 7 * 1 / 3, "b": 1, "c": 100 + 7 * 2 / 3}
    )
    assert {(one.factors, one.effect.mean) for one in found.interactions} == {
        (("a", "b"), 0),
        (("a", "c"), 7),
    }
    assert "is only where  is on" in repr(found)


def test_a_plugin_that_replaces_another_counts_only_where_that_is_gone(ablate: Make) -> None:
    found = ablate("10 * a + 3 * d", "d = {}", "a = {}")
    assert numbers(found) == {"d": (3,) * 4, "a": (-10,) * 4}
    removed = {one.factor.name: (one.factor.off, one.factor.on, one.needs) for one in found.factors}
    assert removed == {"d": ("not used", "used", ("a",)), "a": ("used", "not used", ())}
    together = ablate("10 * a + 3 * d", "d = {}", "a = {}", factors=["a+d"])
    assert numbers(together) == {"a + d": (-7,) * 4}


def test_what_a_factor_needs_may_need_others(ablate: Make) -> None:
    found = ablate("b + 10 * c", "b = {}, c = {}", factors=["c.size=0,5"])
    assert {one.factor.name: set(one.needs) for one in found.factors} == {
        "c.size": {"b", "c"}, "c": {"b"}, "b": set(),
    }  # fmt: skip
    assert numbers(found) == {"c.size": (50,) * 4, "c": (0,) * 4, "b": (1,) * 4}
    assert found.interactions == ()


def test_plugins_that_go_together_with_what_they_require(ablate: Make) -> None:
    found = ablate("b + 10 * c", "", "b = {}, c = {}")
    assert {one.factor.name: one.needs for one in found.factors} == {"b": ("c",), "c": ()}
    assert numbers(found) == {"b": (-1,) * 4, "c": (-10,) * 4}


@pytest.mark.once
@given(st.data())
def test_what_factors_need_is_just_what_makes_an_arm_possible(data: st.DataObject) -> None:
    """Any plugins, any two arms that can be: a combination can be run if all that its factors need is on."""
    names = [f"p{at}" for at in range(6)]
    said: dict[str, Any] = {}
    for at, name in enumerate(names):
        earlier = st.sets(st.sampled_from(names[:at]), max_size=2).map(tuple) if at else st.just(())
        said[name] = {"requires": data.draw(earlier), "conflicts": data.draw(earlier)}
    known = registry(**said)

    def possible(plugins: Iterable[str]) -> bool:
        try:
            known.solve(plugins)
        except UserError:
            return False
        return True

    def arm(name: str) -> Arm:
        plugins = data.draw(st.sets(st.sampled_from(names)).filter(possible))
        return Arm(
            name=name, title="", hardware="", plugins={one: {} for one in sorted(plugins)}, workload={}
        )

    low, high = arm("low"), arm("high")
    factors = [Factor(change.name, (change,)) for change in differences(low, high)]
    closed = feasible(needed(factors, known))
    for combination in range(1 << len(factors)):
        switched = {factors[at].name for at in bits(combination)}
        assert possible(low.plugins.keys() ^ switched) == (combination in closed)
    assert combined(low, factors, range(len(factors)), known, "high").plugins == high.plugins


# Which factors there are


def test_options_workload_and_hardware_are_factors_too(ablate: Make) -> None:
    found = ablate(
        "a + 10 * n + 100 * nodes",
        "a = { size = 5 }",
        "a = { size = 2 }",
        more='workload = { n = 4 }\nhardware = "opteron-4s"',
    )
    assert [(one.factor.name, one.factor.off, one.factor.on) for one in found.factors] == [
        ("a.size", "2", "5"),
        ("workload.n", "0", "4"),
        ("hardware", "uni", "opteron-4s"),
    ]
    assert numbers(found) == {"a.size": (3,) * 4, "workload.n": (40,) * 4, "hardware": (300,) * 4}


def test_some_factors_are_asked_for_and_the_rest_is_one(ablate: Make) -> None:
    plugins = "a = {}, b = {}, f = {}"
    found = ablate("a + 10 * b + 100 * (f > 0)", plugins, factors=["b"])
    assert numbers(found) == {"b": (10,) * 4, "the rest": (101,) * 4}
    found = ablate("a + 10 * b + 100 * (f > 0)", plugins, factors=["a", "b"])
    assert numbers(found) == {"a": (1,) * 4, "b": (10,) * 4, "f": (100,) * 4}
    found = ablate("a + 10 * b + 100 * (f > 0)", plugins, factors=["f+a", "b"])
    assert numbers(found) == {"f + a": (101,) * 4, "b": (10,) * 4}


def test_what_is_joined_or_added_leaves_the_others(ablate: Make) -> None:
    plugins = "a = {}, b = {}, f = {}"
    found = ablate("a + 10 * b + 100 * (f > 0) + n", plugins, factors=["b+a", "workload.n=0,5"])
    assert numbers(found) == {"b + a": (11,) * 4, "workload.n": (5,) * 4, "f": (100,) * 4}


def test_an_option_of_a_plugin_counts_where_the_plugin_is_on(ablate: Make) -> None:
    found = ablate("a", "a = { size = 9 }", factors=["a.size=2,7"])
    assert found.whole.mean == 7
    assert numbers(found) == {"a.size": (5,) * 4, "a": (2,) * 4}
    assert found.factors[0].needs == ("a",)


@pytest.mark.parametrize("factors", [["workload.n=2,6"], {"workload.n": (2, 6)}])
def test_a_factor_in_which_the_arms_do_not_differ(ablate: Make, factors: Any) -> None:
    assert numbers(ablate("a + n", "a = {}", factors=factors)) == {"workload.n": (4,) * 4, "a": (1,) * 4}


def test_plugins_of_both_arms_or_of_none(ablate: Make) -> None:
    found = ablate("a + 10 * b", "a = { size = 3 }", "a = { size = 3 }", factors=["a", "b"])
    assert numbers(found) == {"a": (3,) * 4, "b": (10,) * 4}


def test_ends_are_called_as_the_arms_that_they_are(ablate: Make) -> None:
    def ends(**asked: Any) -> list[str]:
        (shown, *_) = ablate("a + n", "a = {}", more="workload = { n = 1 }", **asked).tables()
        return [row[0] for row in shown.rows[:2]]

    assert (
        ends() == ends(factors=["a"]) == ends(factors=["a+workload.n"]) == ["all off (low)", "all on (high)"]
    )
    assert ends(factors=["workload.n=0,2"]) == ["all off (low)", "all on"]
    assert ends(factors=["workload.n=2,1"]) == ["all off", "all on (high)"]
    assert ends(factors=["b"]) == ["all off (low)", "all on"]


def test_hardware_as_asked(ablate: Make) -> None:
    found = ablate("a * nodes", "a = {}", factors=["hardware=uni,opteron-4s"])
    assert numbers(found) == {"hardware": (0, 3, 1.5, 1.5), "a": (1, 4, 2.5, 2.5)}
    assert ablate("a * nodes", "a = {}", hardware="opteron-4s").whole.mean == 4


def test_a_plugin_taken_apart(ablate: Make) -> None:
    found = ablate("f", "f = { size = 2, more = 3 }", split=["f"], seeds=2)
    assert [(one.factor.name, one.factor.off, one.factor.on) for one in found.factors] == [
        ("f.size", "0", "2"),
        ("f.more", "0", "3"),
    ]
    assert numbers(found) == {"f.size": (2, 8, 5, 5), "f.more": (0, 6, 3, 3)}
    assert list(found.experiment.arms) == ["base", "c_00", "c_10", "c_01", "c_11"]
    assert {len(column) for column in found.columns().values()} == {10}


def test_the_base_of_a_plugin_taken_apart_is_a_run_too(ablate: Make) -> None:
    assert len(ablate("f", "f = {}", split=["f"], seeds=2, runs=10).runs) == 10
    with pytest.raises(UserError, match=r"--runs: 9 runs are too few .* at least 10"):
        ablate("f", "f = {}", split=["f"], seeds=2, runs=9)


def test_arms_by_name(ablate: Make) -> None:
    more = "[arms.other]\nplugins = { b = {} }"
    assert numbers(ablate("a + 10 * b", "a = {}", more=more, full="high", base="low")) == {"a": (1,) * 4}
    assert numbers(ablate("a + 10 * b", "a = {}", more=more)) == {"b": (10,) * 4}
    assert set(numbers(ablate("a + 10 * b", "a = {}", more=more, base="high"))) == {"a", "b"}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a", ("a", None)),
        ("a+b", ("a+b", None)),
        ("a.size=1,2", ("a.size", [1, 2])),
        ("a.size = 64 KiB, 1 MiB", ("a.size", ["64 KiB", "1 MiB"])),
        ("a.list=[1, 2],[3]", ("a.list", [[1, 2], [3]])),
        ('a.text="x,y","z"', ("a.text", ["x,y", "z"])),
        ("a.on=false,true", ("a.on", [False, True])),
        ("a.style=plain,fancy", ("a.style", ["plain", "fancy"])),
    ],
)
def test_factors_are_read(text: str, read: Any) -> None:
    assert parse_factor(text) == read


# Fractions


LOW = "a = { size = 0 }, b = { size = 0 }, f = { size = 0, more = 0 }, g = { size = 0 }"
HIGH = "a = { size = 2 }, b = { size = 3 }, f = { size = 1, more = 1 }, g = { size = 5 }"
SIX = {"high": HIGH, "low": LOW, "more": "workload = { n = 7 }"}
PAIRS = "a + b - 4 * a * b + f + 2 * g * n"  # f is a product of two options itself


def test_a_fraction_of_six_factors(ablate: Make) -> None:
    full, fraction = ablate(PAIRS, **SIX), ablate(PAIRS, **SIX, runs=14 + 32)
    assert len(full.experiment.arms) == 64
    assert len(fraction.experiment.arms) < 14 + 32
    found = fraction.to_json()["ablation"]
    assert found["design"]["kind"] == "fraction"
    assert found["design"]["resolution"] == 6
    # No interaction of three or more exists, so nothing is mixed with anything.
    for one, other in zip(fraction.factors, full.factors, strict=True):
        assert (one.alone, one.last, one.main) == (other.alone, other.last, other.main)
        assert (one.shapley, one.share, one.aliases) == (None, None, ())
    assert fraction.interactions == full.interactions
    assert fraction.whole == full.whole
    assert fraction.tables()[2].title == "32 combinations are a fraction of resolution VI"
    assert "each average           interactions of 5 factors or more" in repr(fraction)


def test_what_a_small_fraction_cannot_tell_is_said(ablate: Make) -> None:
    full, fraction = ablate(PAIRS, **SIX), ablate(PAIRS, **SIX, runs=14 + 8)
    assert fraction.to_json()["ablation"]["design"]["resolution"] == 3
    truth = {frozenset(one.factors): one.effect.mean for one in full.interactions}
    for one, other in zip(fraction.factors, full.factors, strict=True):
        assert one.aliases
        mixed = sum(truth[frozenset(alias)] / 2 for alias in one.aliases)
        assert one.main.mean == other.main.mean + mixed
        assert (one.alone, one.last) == (other.alone, other.last)
    (left,) = fraction.interactions  # what is no alias of a factor
    pairs = [frozenset(some) for some in (left.factors, *left.aliases) if len(some) == 2]
    assert left.effect.mean == sum(truth[pair] for pair in pairs)
    (shown,) = [table for table in fraction.tables() if "resolution III" in table.title]
    assert [row[1].count(" / 2") for row in shown.rows[:-2]] == [len(one.aliases) for one in fraction.factors]


def test_interactions_that_are_mixed_are_shown_once(ablate: Make) -> None:
    full, fraction = ablate(PAIRS, **SIX), ablate(PAIRS, **SIX, runs=14 + 16)
    assert fraction.to_json()["ablation"]["design"]["resolution"] == 4
    truth = {frozenset(one.factors): one.effect.mean for one in full.interactions}
    for one in fraction.interactions:
        assert one.effect.mean == sum(truth[frozenset(some)] for some in (one.factors, *one.aliases))
    seen = [frozenset(some) for one in fraction.interactions for some in (one.factors, *one.aliases)]
    assert len(seen) == len(set(seen)) == 15


def test_resolution_five_does_not_tell_an_interaction_of_three_from_one_of_two(ablate: Make) -> None:
    asked = {**SIX, "factors": ["a.size", "b.size", "f.size", "f.more", "workload.n+g.size"]}
    fraction = ablate("1000 * a * b * f", **asked, runs=12 + 16)
    assert fraction.to_json()["ablation"]["design"]["resolution"] == 5
    triple = {"a.size", "b.size", "f.size"}
    (mixed,) = [one for one in fraction.interactions if triple.isdisjoint(one.factors)]
    assert mixed.factors == ("f.more", "workload.n + g.size")
    assert [set(alias) for alias in mixed.aliases] == [triple]
    full = ablate("1000 * a * b * f", **asked, order=3)
    truth = {frozenset(one.factors): one.effect.mean for one in full.interactions}
    assert mixed.effect.mean == truth[frozenset(mixed.factors)] + truth[frozenset(triple)] / 2 != 0
    assert "more x workload.n + g.size + a.size x b.size x f.size / 2" in repr(fraction)


# Runs and results


def test_an_ablation_is_an_experiment_whose_result_runs_again(
    ablate: Make, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = ablate("luck * a * n + b", more="workload = { n = 2 }", seeds=2, out=out)
    assert [path.name for path in out.iterdir()] == ["mine.ablation.json"]
    content = json.loads((out / "mine.ablation.json").read_text())
    assert content == json.loads(json.dumps(found.to_json()))
    file.unlink()
    again = ntlab.rerun(out)
    assert again.same
    assert len(again.digests) == 16
    told = content["ablation"]
    assert (told["experiment"], told["base"], told["full"], told["metric"]) == (
        "mine",
        "low",
        "high",
        "value",
    )
    assert [one["on"] for one in told["combinations"]][-1] == ["a", "b", "workload.n"]
    assert told["factors"][0]["changes"] == [{"name": "a", "off": None, "on": {"size": 1, "style": "plain"}}]
    assert sum(one["shapley"]["mean"] for one in told["factors"]) == pytest.approx(told["whole"]["mean"])


def test_jobs_and_hook_modes_change_nothing(ablate: Make, file: Path) -> None:
    here = ablate("luck * a + b", seeds=2)
    assert repr(ablate("luck * a + b", seeds=2, jobs=2)) == repr(here)
    assert ablate("luck * a + b", seeds=2, hooks="plain").factors == here.factors


def test_columns_have_a_row_a_run(ablate: Make) -> None:
    columns = ablate("a + b", seeds=2).columns()
    assert list(columns)[:5] == ["arm", "seed", "a", "b", "value"]
    assert columns["a"] == [False, False, True, True, False, False, True, True]
    assert columns["value"] == [0, 0, 1, 1, 1, 1, 2, 2]


def test_an_interrupt_keeps_what_is_finished(ablate: Make, tmp_path: Path) -> None:
    def interrupt(done: int, of: int, last: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        ablate("a", out=tmp_path, progress=interrupt)
    assert caught.value.file == tmp_path / "mine.ablation.interrupted.json"
    content = json.loads(caught.value.file.read_text())
    assert len(content["runs"]) == 3
    assert content["ablation"] is None
    assert isinstance(caught.value.result, Ablation)
    assert "interrupted" in repr(caught.value.result)
    with pytest.raises(UserError, match=r"mine.ablation: 3 runs are finished; expected all of them"):
        _ = caught.value.result.factors
    assert ntlab.rerun(caught.value.file).same


def test_it_reads_well(ablate: Make) -> None:
    found = ablate("a + 2 * b + a * b")
    assert repr(found).splitlines() == [
        "mine on uni, 1 seed, all 4 combinations",
        "               value",
        "-------------  -----",
        "all off (low)      0",
        "all on (high)      4",
        "effect            +4",
        "",
        "factor  off       on    alone  last  on average  Shapley  share",
        "------  --------  ----  -----  ----  ----------  -------  -----",
        "b       not used  used     +2    +3        +2.5     +2.5  62.5%",
        "a       not used  used     +1    +2        +1.5     +1.5  37.5%",
        "",
        "together  more than apart",
        "--------  ---------------",
        "a x b                  +1",
    ]
    assert "<td>62.5%</td>" in found._repr_html_()


# Mistakes


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"base": "lo"}, r"--base: unknown arm 'lo'.*did you mean 'low'"),
        ({"full": "hihg"}, r"--full: unknown arm 'hihg'.*did you mean 'high'"),
        ({"base": "high"}, r"mine.toml: the arms 'high' and 'high' do not differ; expected --base"),
        ({"metric": "valve"}, r"--metric, with nothing on: unknown metric 'valve'.*did you mean 'value'"),
        ({"factors": ["aa"]}, r"--factor: unknown factor 'aa'.*did you mean 'a'"),
        ({"factors": ["a", "a"]}, r"--factor: 'a' is asked for twice"),
        ({"factors": ["a+b", "b"]}, r"--factor: 'b' is asked for twice"),
        ({"factors": ["a.size=1,2", "a.size=1,3"]}, r"--factor: 'a.size' is asked for twice"),
        ({"factors": ["a.size"]}, r"--factor: 'a.size' is the same in both arms; expected a.size=OFF,ON"),
        ({"factors": ["workload.n"]}, r"'workload.n' is the same in both arms; expected workload.n=OFF,ON"),
        ({"factors": ["hardware"]}, r"'hardware' is the same in both arms; expected hardware=OFF,ON"),
        ({"factors": ["a.size=1"]}, r"--factor: 'a.size' has 1 levels; expected a.size=OFF,ON"),
        ({"factors": {"a.size": (1, 2, 3)}}, r"--factor: 'a.size' has 3 levels"),
        ({"factors": ["workload"]}, r"--factor: unknown factor 'workload'"),
        ({"factors": ["hardware=uni,uni"]}, r"--factor: 'hardware' is uni in both"),
        ({"factors": ["a.size=1,1"]}, r"--factor: 'a.size' is 1 in both; expected two levels that differ"),
        ({"factors": ["a.size=1,no"]}, r"--factor: a.size: 'no' is of the wrong kind"),
        ({"factors": ["a.sice=1,2"]}, r"--factor: a.sice: unknown option 'sice'"),
        ({"factors": ["f.size=1,2"]}, r"--factor: f: has no effect: the arm 'high' does not use the plugin"),
        ({"factors": ["z.size=1,2"]}, r"--factor: z: unknown plugin 'z'"),
        ({"factors": ["a=1,2"]}, r"--factor: 'a' takes no levels; expected PLUGIN.OPTION=OFF,ON"),
        ({"factors": ["hardware=uni,unu"]}, r"hardware: unknown hardware 'unu'"),
        ({"split": ["b"]}, r"--split: the plugin 'b' does not say with which options it changes nothing"),
        ({"split": ["f"]}, r"--split: unknown plugin that only the arm 'high' uses 'f'"),
        ({"runs": 3}, r"--runs: 3 runs are too few for 2 factors and 1 seeds; expected at least 4"),
        ({"order": 0}, r"--order: 0 factors; expected at least 1"),
        ({"jobs": 0}, r"--jobs: 0 jobs"),
    ],
)  # fmt: skip
def test_a_mistake_is_told(ablate: Make, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        ablate("a", **asked)


def test_one_arm_is_told(file: Path) -> None:
    file.write_text(
        """
        name = "one"
        hardware = "uni"
        workload = { use = "base.formula", value = "n" }
        arms = { only = {} }
        """
    )
    with pytest.raises(UserError, match=r"mine.toml: the arm 'only' is the only one; expected"):
        ntlab.ablate(file, "value")
    assert numbers(ntlab.ablate(file, "value", factors=["workload.n=1,3"])) == {"workload.n": (2,) * 4}


def test_too_few_runs_for_what_needs_others(ablate: Make) -> None:
    told = r"expected at least 12, .*'c' needs 'b', so all combinations must be run \(--factor 'c\+b' "
    with pytest.raises(UserError, match=told):
        ablate("c", "a = {}, b = {}, c = {}", seeds=2, runs=11)
    assert len(ablate("c", "a = {}, b = {}, c = {}", factors=["c+b"], seeds=2, runs=11).runs) == 8


def test_interactions_that_a_fraction_cannot_tell(ablate: Make) -> None:
    with pytest.raises(
        UserError, match=r"--order: .* 3 factors .*32 of 64.*expected at most 2, or --runs 64"
    ):
        ablate("a", **SIX, runs=46, order=3)


def test_a_metric_that_some_combination_does_not_measure(ablate: Make) -> None:
    with pytest.raises(UnknownNameError, match=r"--metric, with a and b on: unknown metric 'value'"):
        ablate("a", set={"workload.measured": "not (a and b)"})


def test_a_metric_with_several_units(ablate: Make) -> None:
    with pytest.raises(
        PluginError, match=r"plugin 'base': the workload measures 'value' in several units: B, ns"
    ):
        repr(ablate("a", set={"workload.unit": "'B' if a else 'ns'"}))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_combination_that_raises_is_named(ablate: Make, jobs: int) -> None:
    told = r"'e', hook 'machine_booted': ZeroDivisionError: no a.*\(seed 1, with a and e( and b)? on\)$"
    with pytest.raises(PluginError, match=told):
        ablate("a", "b = {}", factors=["a", "e"], jobs=jobs)


def test_options_that_do_not_go_together(ablate: Make) -> None:
    with pytest.raises(UserError, match=r"a: 3 is not ugly \(seed 1, with a.size on\)"):
        ablate("a", "a = { size = 3 }", "a = { style = 'ugly' }")


def test_factors_that_need_each_other(ablate: Make) -> None:
    # c requires b, and d needs a gone.
    told = r"--factor: 'b \+ d' and 'c \+ a' need each other; expected that they are switched together"
    with pytest.raises(UserError, match=told):
        ablate("a", "b = {}, c = {}, d = {}", "a = {}", factors=["b+d", "c+a"])


def test_a_plugin_that_others_in_both_arms_require(ablate: Make) -> None:
    with pytest.raises(
        UserError, match=r"with nothing on: plugin 'c' requires plugin 'b', which is not used"
    ):
        ablate("b", "b = {}, c = {}", "b = {}, c = {}", factors=["b"])


def test_a_plugin_that_requires_what_no_arm_uses(ablate: Make) -> None:
    with pytest.raises(UserError, match=r"with c and a on: plugin 'c' requires plugin 'b', which"):
        ablate("c", "a = {}", factors=["c"])


def test_neutral_options_that_are_not(ablate: Make) -> None:
    with pytest.raises(PluginError, match=r"plugin 'g': with its neutral options it changes the arm 'low'"):
        ablate("g", "g = {}", split=["g"])
