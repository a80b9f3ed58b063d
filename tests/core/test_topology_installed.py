"""Profiles that other distributions bring."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import ntlab
from distributions import TOY, write_distribution
from ntlab.errors import UnknownNameError, UserError
from ntlab.lab.hardware import profile_list
from ntlab.topology import TopologyError, load, profiles

Use = Callable[..., None]
MACHINE = 'source = "made up"\n[layout]\ncores = {cores}\n[node]\nmemory = "1 GiB"\nlatency = "80 ns"\n'


def bring(folder: Path, name: str, machines: Mapping[str, int], package: str = "") -> Path:
    """A distribution whose profiles are machines of so many cores."""
    package = package or f"{name.replace('-', '_')}.machines"
    place = package.replace(".", "/")
    modules = {f"{place}/{key}.toml": MACHINE.format(cores=cores) for key, cores in machines.items()}
    # Whoever imports it learns of it.
    modules[f"{package.partition('.')[0]}/__init__.py"] = "raise SystemExit('imported')"
    write_distribution(folder / name, name, hardware={"machines": package}, modules=modules)
    return folder / name


def test_profiles_of_other_distributions_are_found_by_name(installed_only: Use, tmp_path: Path) -> None:
    installed_only(bring(tmp_path, "ntlab-acme", {"acme-1": 3, "acme-1.5": 5}), TOY)
    assert [load(name).freeze().processors for name in ("acme-1", "acme-1.5", "smp-4")] == [3, 5, 4]
    assert list(profiles())[-2:] == ["acme-1", "acme-1.5"]
    assert (profiles()["acme-1"].distribution, profiles()["uni"].distribution) == ("ntlab-acme", "ntlab")
    with pytest.raises(UnknownNameError, match="did you mean 'acme-1'"):
        load("acme-l")
    result = ntlab.run("toy-turns", hardware="acme-1", seeds=1, jobs=1)
    assert (result.experiment.hardware, set(result.profiles)) == ("acme-1", {"acme-1"})


def test_the_list_says_whose_they_are(installed_only: Use, tmp_path: Path) -> None:
    installed_only()
    assert "distribution" not in repr(profile_list())
    installed_only(bring(tmp_path, "ntlab-acme", {"acme-1": 3}))
    lines = repr(profile_list()).splitlines()
    assert lines[0].split()[-1] == "distribution"
    assert lines[2].split()[-1] == "ntlab"
    assert (lines[-1].split()[0], lines[-1].split()[-1]) == ("acme-1", "ntlab-acme")


@pytest.mark.parametrize(("name", "first"), [("uni", "ntlab"), ("acme-1", "ntlab-acme")])
def test_a_name_that_two_bring_is_one_error_that_names_both(
    name: str, first: str, installed_only: Use, tmp_path: Path
) -> None:
    acme, other = bring(tmp_path, "ntlab-acme", {"acme-1": 3}), bring(tmp_path, "ntlab-b", {name: 2})
    for folders in ((acme, other), (other, acme)):
        installed_only(*folders)
        with pytest.raises(TopologyError) as caught:
            load(name)
        assert (
            str(caught.value)
            == f"hardware {name!r}: is brought by two distributions: {first!r} and 'ntlab-b'"
        )
        assert load("smp-4").freeze().processors == 4
        (bad,) = [one for one in profile_list().to_json() if one["mistake"] is not None]
        assert (bad["name"], bad["mistake"]) == (name, str(caught.value))


def test_one_distribution_may_bring_no_name_twice(installed_only: Use, tmp_path: Path) -> None:
    package = bring(tmp_path, "ntlab-acme", {"acme-1": 3})
    more = package / "ntlab_acme" / "more"
    more.mkdir()
    (more / "acme-1.toml").write_text(MACHINE.format(cores=1))
    entries = package / "ntlab_acme-1.0.dist-info" / "entry_points.txt"
    entries.write_text(entries.read_text() + "more = ntlab_acme.more\n")
    installed_only(package)
    with pytest.raises(TopologyError, match="'ntlab-acme' and 'ntlab-acme'"):
        load("acme-1")


@pytest.mark.parametrize(
    ("package", "machines", "name", "message"),
    [
        ("ntlab_acme.absent", {}, "machines", "'ntlab_acme.absent', but there is no such package"),
        ("ntlab_acme", {}, "machines", r"ntlab_acme holds no \*\.toml"),
        ("ntlab_acme", {"host": 1}, "host", "is the name of the running machine"),
        ("ntlab_acme", {"acme-1": 0}, "acme-1", r"acme-1.toml: \[layout\]: cores is 0"),
        ("ntlab_acme", {"acme-1": "= ="}, "acme-1", "acme-1.toml: not TOML"),
    ],
)
def test_what_is_wrong_with_one_does_not_hinder_the_others(
    package: str, machines: dict[str, int], name: str, message: str, installed_only: Use, tmp_path: Path
) -> None:
    wrong = bring(tmp_path, "ntlab-acme", machines, package)
    installed_only(wrong, bring(tmp_path, "ntlab-b", {"fine": 2}))
    with pytest.raises(UserError, match=message):
        profiles()[name].read()
    assert load("fine").freeze().processors == 2
    listed = {one["name"]: one for one in profile_list().to_json()}
    assert [key for key, one in listed.items() if one["mistake"] is not None] == [name]
    assert listed[name]["distribution"] == "ntlab-acme"
    assert "cannot be had" in repr(profile_list())


def test_a_profile_must_not_call_itself_otherwise(installed_only: Use, tmp_path: Path) -> None:
    folder = bring(tmp_path, "ntlab-acme", {"acme-1": 3, "acme-2": 3})
    for number in (1, 2):
        file = folder / "ntlab_acme" / "machines" / f"acme-{number}.toml"
        file.write_text('name = "acme-1"\n' + file.read_text())
    installed_only(folder)
    assert load("acme-1").freeze().name == "acme-1"
    with pytest.raises(TopologyError, match=r"acme-2.toml: name is 'acme-1'; expected 'acme-2'"):
        load("acme-2")


def test_a_module_that_is_not_there_at_all(installed_only: Use, tmp_path: Path) -> None:
    write_distribution(tmp_path, "ntlab-acme", hardware={"acme": "nowhere.machines"}, modules={})
    installed_only(tmp_path)
    with pytest.raises(
        TopologyError, match=r"'ntlab-acme' brings profiles in 'nowhere\.machines', but there is no"
    ):
        load("acme")


def test_the_host_stays_the_host(installed_only: Use, tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /sys")
    installed_only(bring(tmp_path, "ntlab-acme", {"host": 200}))
    assert load("host").freeze().processors != 200


def test_an_installed_one_is_found_from_the_command_line(tmp_path: Path) -> None:
    folder = bring(tmp_path, "ntlab-acme", {"acme-1": 3})
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); from ntlab.cli.main import main; sys.exit(main())"
    )
    for command in (["topology", "show", "acme-1"], ["topology", "list"]):
        ran = subprocess.run(
            [sys.executable, "-c", code, *command], capture_output=True, text=True, check=True
        )
        assert "acme-1" in ran.stdout
