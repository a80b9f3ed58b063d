"""Options: what may be written, what it becomes, what is refused and how it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntlab
from ntlab import Duration, Rate, Share, Size, option, plugin, state
from ntlab.errors import UnknownNameError, UserError
from ntlab.lab.options import (
    Place,
    Setting,
    build,
    options_written,
    parse_setting,
    structure,
    type_name,
    written,
)
from ntlab.plugin import options_of

TOP = Place("here.toml", ("plugins", "example"))


@attrs.frozen(kw_only=True)
class Bank:
    size: Size
    speed: Rate | None = None


def test_a_file_of_a_users_own_is_read_as_strictly_as_an_experiment(tmp_path: Path) -> None:
    file = tmp_path / "bank.toml"
    file.write_text('size = "4 KiB"')
    assert ntlab.read_options(file, Bank) == Bank(size=Size(4096))
    for text, told in (
        ("size = 4096", "bank.toml: size: 4096 is not a size"),
        ('size = "4 KiB"\nsped = 3', "bank.toml: unknown key 'sped'.*'speed'"),
        ("size = ", "bank.toml: is not valid TOML"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=told):
            ntlab.read_options(file, Bank)
    with pytest.raises(UserError, match=r"none.toml: cannot be read"):
        ntlab.read_options("none.toml", Bank)


@plugin(name="example", summary="Every type of option.", release="ws2003")
class Example:
    limit: Size = option(default=Size(65536), help="A size.", minimum=4096, maximum=1 << 30)
    wait: Duration = option(default=Duration(0), help="A time.")
    link: Rate = option(default=Rate(10**9), help="A rate.")
    part: Share = option(default=Share(0.5), help="A share.")
    count: int = option(default=3, help="A number.", minimum=0)
    factor: float = option(default=1.5, help="A factor.")
    on: bool = option(default=True, help="A switch.")
    label: str = option(default="x", help="A text.")
    style: Literal["plain", "fancy"] = option(default="plain", help="A choice.")
    weights: tuple[int, ...] = option(default=(1, 2), help="Several numbers.")
    pair: tuple[Duration, Size] = option(default=(Duration(1), Size(2)), help="Two quantities.")
    cap: Duration | None = option(default=None, help="A time, or none.")
    mode: int | Literal["auto"] = option(default="auto", help="A number, or auto.")
    shares: dict[str, Share] = option(default=attrs.Factory(dict), help="Shares by name.")
    banks: tuple[Bank, ...] = option(default=(), help="Tables.")
    memory: list[int] = state(list)


def make(**options: Any) -> Example:
    settings = {name: Setting(value, TOP / name) for name, value in options.items()}
    made = build(Example, settings, TOP)
    assert isinstance(made, Example)
    return made


def test_quantities_are_read_with_their_units() -> None:
    made = make(limit="64 KiB", wait="15.625 ms", link="6.4 GB/s", part="25 %")
    assert (made.limit, made.wait, made.link, made.part) == (65536, 15_625_000, 6_400_000_000, 0.25)


def test_a_share_may_be_a_plain_number_and_a_factor_a_whole_one() -> None:
    made = make(part=1, factor=2)
    assert (made.part, made.factor) == (1.0, 2.0)
    assert type(made.factor) is float


def test_nested_values() -> None:
    made = make(
        weights=[3, 4, 5],
        pair=["1 us", "1 KiB"],
        cap="1 s",
        mode=7,
        shares={"a": 0.5},
        banks=[{"size": "1 GiB", "speed": "1 GB/s"}, {"size": "2 GiB"}],
    )
    assert made.weights == (3, 4, 5)
    assert made.pair == (1000, 1024)
    assert (made.cap, made.mode, made.shares) == (10**9, 7, {"a": 0.5})
    assert made.banks == (Bank(size=Size(1 << 30), speed=Rate(10**9)), Bank(size=Size(2 << 30)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"limit": 65536},
            "here.toml: plugins.example.limit: 65536 is not a size; expected a number with a unit",
        ),
        ({"limit": "64"}, "limit: '64' has no unit; expected a size"),
        ({"limit": "64 ms"}, "limit: '64 ms' has the unit 'ms'; expected a size in one of B, kB"),
        ({"limit": "0.3 B"}, "limit: '0.3 B' is finer than the base unit"),
        ({"limit": "1e20 B"}, "limit: '1e20 B' is too large for a size"),
        ({"limit": "1e999999999 B"}, "limit: '1e999999999 B' has the unit 'e999999999 B'"),
        ({"limit": "1 KiB"}, "limit: 1 KiB is out of range; expected 4 KiB to 1 GiB"),
        ({"count": -1}, "count: -1 is out of range; expected at least 0"),
        ({"count": True}, "count: True is of the wrong kind; expected a whole number"),
        ({"count": 1.0}, "count: 1.0 is of the wrong kind; expected a whole number"),
        ({"on": 1}, "on: 1 is of the wrong kind; expected true or false"),
        ({"label": 5}, "label: 5 is of the wrong kind; expected text"),
        ({"factor": float("nan")}, "factor: nan is not finite"),
        ({"factor": "2"}, "factor: '2' is of the wrong kind; expected a number"),
        ({"part": 1.5}, "part: 1.5 is not a share"),
        ({"style": "fance"}, "style: 'fance' is no choice here; expected one of 'plain', 'fancy'"),
        ({"weights": "12"}, "weights: '12' is not a list; expected list of int"),
        ({"weights": [1, "2"]}, "weights.[1]: '2' is of the wrong kind"),
        ({"pair": ["1 us"]}, "pair: 1 values; expected 2"),
        ({"mode": "off"}, "mode: 'off' is of the wrong kind; expected int | \"auto\""),
        ({"shares": {"a": 2}}, "plugins.example.shares.a: 2 is not a share"),
        ({"banks": [{"speed": "1 B/s"}]}, "banks.[0]: the key 'size' is missing"),
        ({"banks": [{"size": "1 B", "sped": 1}]}, "banks.[0]: unknown key 'sped'"),
        ({"memory": [1]}, "plugins.example.memory: unknown option 'memory'"),
    ],
)
def test_a_mistake_is_told_with_its_place(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        make(**options)
    assert told in str(caught.value)


def test_an_unknown_option_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'limit'"):
        make(limt="64 KiB")


def test_options_written_are_read_back_the_same() -> None:
    made = make(wait="15.625 ms", cap="7 ns", mode=3, banks=[{"size": "1 GiB"}], pair=["1234567 ns", "1 KiB"])
    again = make(**options_written(made))
    assert [getattr(made, name) for name in options_written(made)] == [
        getattr(again, name) for name in options_written(again)
    ]
    assert options_written(made)["wait"] == "15.625 ms"
    assert "cap" not in options_written(make())  # TOML has no word for nothing


@given(st.integers(0, 1 << 62))
def test_a_written_quantity_is_exact(value: int) -> None:
    for kind in (Duration, Size, Rate):
        text = written(value, kind)
        assert structure(text, kind, TOP) == value


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a.b=64 KiB", "a.b", "64 KiB"),
        ("a.b = 5", "a.b", 5),
        ("a.b=true", "a.b", True),
        ("a.b=[1, 2]", "a.b", [1, 2]),
        ('a.b="5"', "a.b", "5"),
        ("a.b=x=y", "a.b", "x=y"),
        ("a.b=", "a.b", ""),
    ],
)
def test_settings_on_the_command_line(text: str, key: str, value: object) -> None:
    assert parse_setting(text) == (key, value)


@pytest.mark.parametrize("text", ["a.b", "=5", ""])
def test_what_sets_nothing_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="key=value"):
        parse_setting(text)


def test_types_are_named_for_people() -> None:
    fields = {field.name: type_name(field.type) for field in options_of(Example)}
    assert fields["limit"] == "Size"
    assert fields["style"] == '"plain" | "fancy"'
    assert fields["weights"] == "list of int"
    assert fields["cap"] == "Duration"
    assert fields["shares"] == "table of Share"
