"""The workspace: which panels show which logged numbers of which runs, in W&B's own terms."""

from typing import Any

import wandb_workspaces.expr as wx
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.reports.v2.interface import ParallelCoordinatesPlotColumn

from xmas.results.arp import ALL
from xmas.results.curves import BUDGET, COST
from xmas.results.dashboard.charts import CHARTS, FIELDS

STEP = "trainer/global_step"
PINNED = ("config:selector", "config:budget", "config:seed", f"summary:{ALL}")


def workspace(entity: str, project: str, name: str, group: str | None) -> ws.Workspace:
    """All panels of the dashboard over the runs of a group, or of the project."""
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[_subsets(entity), _scores(), _fits(), _attention()],
        runset_settings=ws.RunsetSettings(
            filters=wx.And(wx.Metric("Group") == group) if group else "",
            pinned_columns=list(PINNED),
        ),
    )


def _subsets(entity: str) -> ws.Section:
    charts: list[Any] = [
        wr.CustomChart(
            query={"summaryTable": {"tableKey": "table"}},
            chart_name=f"{entity}/{chart}",
            chart_fields={field: field for field in FIELDS},
        )
        for chart in CHARTS
    ]
    return ws.Section("Subsets", panels=charts, is_open=True)


def _scores() -> ws.Section:
    arp, budget = wr.SummaryMetric(ALL), wr.Config("budget")
    hours = wr.SummaryMetric("hours/total")
    columns = [wr.Config("selector"), budget, hours, wr.SummaryMetric("hours/training"), arp]
    panels: list[Any] = [
        wr.ScatterPlot(title=BUDGET.title, x=budget, y=arp),
        wr.ScatterPlot(title=COST.title, x=hours, y=arp),
        wr.ParallelCoordinatesPlot(
            title="What leads to a score",
            columns=[ParallelCoordinatesPlotColumn(column) for column in columns],
        ),
    ]
    return ws.Section("Runs", panels=panels, is_open=True)


def _fits() -> ws.Section:
    panels: list[Any] = [
        wr.LinePlot(title="Loss", x=STEP, y=["loss"], smoothing_factor=0.6),
        wr.LinePlot(title="Learning rate", x=STEP, y=["rate"]),
    ]
    return ws.Section("Training", panels=panels)


def _attention() -> ws.Section:
    panels: list[Any] = [
        wr.LinePlot(
            title="Sum of the singular values, quantiles",
            x=STEP,
            y=[f"attention/sum/{quantile}" for quantile in ("0.25", "0.5", "0.75")],
        ),
        wr.LinePlot(title="R² against text length", x=STEP, y=["attention/sum/r2_length"]),
        wr.LinePlot(title="Rows a cluster", x=STEP, y=["cluster/rows"]),
    ]
    return ws.Section("Attention", panels=panels)
