"""The dashboard: W&B's own classes accept it, and it asks for nothing that is not logged."""

import json
import re
from pathlib import Path

import pytest

from xmas.attention.statistics import QUANTILES
from xmas.results.dashboard import Dashboard
from xmas.results.dashboard.charts import CHARTS, FIELDS
from xmas.results.table.csv_lines import csv_fields
from xmas.store import Store
from xmas.training.fit.callbacks import COLUMNS as LOSSES

LOGGED = {  # test_logger says that these are
    "summary": {"ARP", "hours/total", "hours/training", "hours/selection"},
    "config": {"selector", "budget", "seed"},
    "history": {
        *LOSSES,
        "cluster/rows",
        "attention/sum/r2_length",
        *(f"attention/sum/{quantile}" for quantile in QUANTILES),
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict:
    store = Store(str(tmp_path_factory.mktemp("dashboard") / "store"))
    said = Dashboard(entity="team", group="smoke").make(store)
    assert "nothing was sent" in said
    return json.loads(Path(said.splitlines()[0]).read_text())


def panels(made: dict) -> list[dict]:
    found = made["view"]["spec"]["section"]["panelBankConfig"]["sections"]
    return [panel for section in found for panel in section["panels"]]


def test_the_view_is_read_back_as_it_was_built():
    from wandb_workspaces.workspaces import Workspace

    built = Dashboard(entity="team", group="smoke").view("team")
    again = Workspace._from_model(built._to_model())
    assert (again.entity, again.project, again.name) == ("team", "xmas", "xmas")
    titles = [panel.title for section in again.sections[1:] for panel in section.panels]
    assert titles == [
        "ARP against budget",
        "ARP against device hours",
        "What leads to a score",
        "Loss",
        "Learning rate",
        "Sum of the singular values, quantiles",
        "R² against text length",
        "Rows a cluster",
    ]
    assert len(again.sections[0].panels) == len(CHARTS)


def test_panels_show_what_is_logged(made):
    text = json.dumps(panels(made))
    asked = set(re.findall(r'"(summary|config):([^"]+)"', text))
    assert len(asked) >= 5
    for where, name in asked:
        assert name.removesuffix(".value") in LOGGED[where], (where, name)
    drawn = [name for panel in panels(made) for name in panel["config"].get("metrics") or []]
    assert len(drawn) == 7
    assert set(drawn) <= LOGGED["history"]


def test_only_the_runs_of_the_sweep_are_shown(made):
    filters = json.dumps(made["view"]["spec"]["section"]["runSets"][0]["filters"])
    assert '"name": "group"' in filters
    assert '"smoke"' in filters


def test_charts_take_columns_of_the_table(made):
    assert set(FIELDS) <= set(csv_fields())
    for name, spec in CHARTS.items():
        (panel,) = [
            one for one in panels(made) if one["config"].get("panelDefId") == f"team/{name}"
        ]
        fields = panel["config"]["fieldSettings"]
        asked = set(re.findall(r"\$\{field:(\w+)\}", json.dumps(spec)))
        assert {"selector", "budget", "benchmark", "relative"} <= asked <= set(fields)
        assert set(fields.values()) <= set(csv_fields())
        assert spec["data"] == {"name": "wandb"}
        assert made["charts"][name] == spec


def test_pushing_makes_the_charts_and_saves_the_view(monkeypatch):
    """What is sent, to whom, held against a stand-in for the server."""
    import wandb
    from wandb_workspaces.workspaces import Workspace

    sent = []

    class Api:
        default_entity = "team"

        def create_custom_chart(self, entity, name, display_name, spec_type, access, spec):
            sent.append((entity, name, display_name, spec_type, access, json.dumps(spec)[:1]))

    def save(self):
        sent.append((self.entity, self.project))
        return self

    monkeypatch.setattr(wandb, "Api", Api)
    monkeypatch.setattr(Workspace, "save", save)
    monkeypatch.setattr(Workspace, "url", "https://wandb.ai/team/xmas?nw=1")
    assert Dashboard(push=True).make(Store()) == "https://wandb.ai/team/xmas?nw=1"
    assert sent == [
        ("team", "xmas-budget", "ARP against budget", "vega2", "private", "{"),
        ("team", "xmas-cost", "ARP against device hours", "vega2", "private", "{"),
        ("team", "xmas-radar", "Benchmarks, relative to full", "vega2", "private", "{"),
        ("team", "xmas"),
    ]
