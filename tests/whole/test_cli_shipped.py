"""What every shipped experiment and plugin keeps, whichever they are."""

from __future__ import annotations

import pytest

import ntlab
from ntlab.lab.experiment import find_experiment, resolve
from ntlab.lab.registry import installed

OURS = [plugin.name for plugin in installed().plugins() if plugin.distribution == "ntlab"]
EXPERIMENTS = [name for name, (plugin, _) in installed().experiment_files.items() if plugin in OURS]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_claim_says_what_row_it_is_about_and_where_it_comes_from(name: str) -> None:
    document, source, plugin = find_experiment(name, installed())
    experiment = resolve(document, installed(), source=source, plugin=plugin)
    assert experiment.title
    assert experiment.claims
    for claim in experiment.claims:
        assert claim.ledger
        assert claim.source


@pytest.mark.parametrize("name", OURS)
def test_a_plugin_describes_itself(name: str) -> None:
    (described,) = ntlab.plugins(name).to_json()
    plugin = installed().plugin(name)
    assert described["summary"].endswith(".")
    assert "\n" not in described["summary"]
    assert plugin.folder is not None
    assert (plugin.folder / "README.md").is_file()
    assert all(option["help"] for option in described["options"])
