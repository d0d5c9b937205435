"""What a selection costs follows what was asked of the store, in the table and in the estimate."""

import json
from collections.abc import Iterator

import pytest
from pages import DOCS, written
from test_estimate import estimate, lines
from test_report import put, train
from toy import Toy, declared, shared

from xmas.results.measured_costs import measured_cost, selected_by
from xmas.results.table import Table
from xmas.selection.methods.full import Full
from xmas.selection.protocol import Selector, name_of
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Store, describe
from xmas.store.index import ResultIndex
from xmas.store.planned_stages import planned_stages

HOUR = 3600.0


@pytest.fixture
def own(toy: Toy, tmp_path) -> Toy:
    """The toy with a store of its own, and a proxy in it that took ten hours."""
    (tmp_path / "store").mkdir()
    store = shared(toy, tmp_path / "store")
    for kind in ("ranking", "subset"):
        (tmp_path / "store" / kind).unlink()
    return Toy(toy.folder, Store(store.root))


@pytest.fixture(params=["shortest", "step 0"])
def selector(request, own: Toy, toy_selector, tmp_path) -> Iterator[Selector]:
    """Each has a proxy in its fields and asks for no fit of it."""
    if request.param == "step 0":
        assert own.coincide.features.step == 0
        yield own.coincide
        return
    with written(DOCS / "add-a-selector.md", tmp_path) as searchpath:
        yield toy_selector("shortest", *searchpath)


def proxy_of(selector):
    return selector.proxy if hasattr(selector, "proxy") else selector.features.proxy


def charged_kinds(selector):
    """Without tokens, which the target asks for as well."""
    features = set() if hasattr(selector, "proxy") else {"activations", "clusters"}
    return {"subset", "ranking"} | features


def test_no_fit_is_charged_that_was_not_asked_for(own, selector):
    put(own.store, proxy_of(selector), seconds=10 * HOUR)
    train(own, "full", Full(), (50.0, 80.0), seconds=2 * HOUR, fraction=1.0, role="reference")
    train(own, name_of(selector), selector, (40.0, 60.0), seconds=HOUR)
    subset = Subset(Ranking(own.pool, selector, 0), 0.5)
    target = own.target(subset, seed=0)
    path = own.store.path(target) / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"inputs": list(declared(target))}))

    index = ResultIndex(own.store)
    cost = measured_cost(index, describe(target))
    assert cost.seconds["proxy"] == cost.seconds["attention"] == 0
    assert cost.seconds["target"] == HOUR
    charged = selected_by(index, describe(target))
    assert {result.kind for result in charged.values()} == charged_kinds(selector)
    assert cost.selection == pytest.approx(sum(result.seconds for result in charged.values()))
    assert charged.keys() <= {own.store.path(stage).name for stage in planned_stages(subset)}

    table = Table().frame(own.store)
    of_arp = table[(table["benchmark"] == "ARP") & (table["selector"] == name_of(selector))]
    (row,) = of_arp.to_dict("records")
    assert 0 <= row["selection_hours"] < 1
    assert row["training_hours"] == 1


def test_no_fit_is_estimated_that_is_not_declared(own, selector):
    ranking = Ranking(own.pool, selector, 0)
    assert "proxy" not in {stage.kind for stage in planned_stages(ranking)}
    shown = lines(estimate(own, ranking).make(own.store))
    assert "ranking" in shown
    assert "proxy" not in shown
    fitted = Ranking(own.pool, own.xmas)
    assert "proxy" in lines(estimate(own, fitted).make(own.store))
