"""xmas from Python: results as DataFrames, and the notebook of `experiments/library`."""

import json
import math
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from scored import Shelves

from xmas import Store, Table, scores

NOTEBOOK = Path(__file__).parent.parent / "experiments" / "library" / "library.ipynb"


@pytest.fixture
def store(tmp_path) -> Store:
    """A reference, and two subsets of two seeds each."""
    add = Shelves(tmp_path / "scored")
    add("full", "gqa", 60.0)
    for seed, random, chosen in ((0, 45.0, 54.0), (1, 51.0, 60.0)):
        add("random", "gqa", random, seed=seed)
        add("xmas", "gqa", chosen, seed=seed)
    return Store(str(tmp_path / "scored"))


def test_scores_have_a_line_a_score(store):
    pytest.importorskip("pandas")
    found = scores(store)
    assert len(found) == 5
    assert set(found.columns) >= {"selector", "budget", "seed", "benchmark", "score", "folder"}
    means = found.groupby("selector")["score"].mean()
    assert means.to_dict() == {"full": 60, "random": 48, "xmas": 57}


def test_an_invalid_score_is_nan_and_says_why(store):
    pytest.importorskip("pandas")
    Shelves(Path(store.root) / "more")("random", "gqa", None, detail={"invalid": "no answers"})
    found = scores(Store(f"{store.root}/more"))
    assert math.isnan(found.score[0])
    assert found.invalid[0] == "no answers"


def test_the_table_s_frame_is_its_csv(store):
    pandas = pytest.importorskip("pandas")
    table = Table(draws=50)
    table.make(store)
    written = pandas.read_csv(table.files(store)[1])
    frame = table.frame(store)
    pandas.testing.assert_frame_equal(frame, written)
    (line,) = frame[(frame.selector == "xmas") & (frame.benchmark == "ARP")].to_dict("records")
    assert line["relative"] == pytest.approx(95)


@pytest.fixture
def notebook():
    return pytest.importorskip("nbformat").read(NOTEBOOK, as_version=4)


@pytest.fixture
def shell(monkeypatch):
    """What runs the cells of a notebook inside its kernel, in this process, which has torch."""
    interactive = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # it takes the name
    monkeypatch.delitem(Singleton._instances, GlobalHydra, raising=False)  # `compose` has one
    shell = interactive(user_ns={"__name__": "__main__"})
    shell.history_manager.enabled = False
    yield shell
    shell.restore_sys_module_state()


def test_the_notebook_runs(store, notebook, shell, tmp_path, monkeypatch):
    monkeypatch.setenv("XMAS_STORE", store.root)
    monkeypatch.chdir(tmp_path)
    shown = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            ran = shell.run_cell(cell.source)
            ran.raise_error()
            if ran.result is not None:
                shown.append(shell.display_formatter.format(ran.result)[0]["text/plain"])
    assert shown[0] == "(60, 54, [('How dark is it?', '28 of 255')])"
    assert shown[2] == "{'Random': True, 'Stratified': True}"
    assert "57.0" in shown[-2]  # the mean of xmas


def test_the_notebook_as_it_is_kept_ran_through_and_names_no_machine():
    kept = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in kept["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    text = json.dumps(kept)
    assert '"error"' not in text
    assert "/home/" not in text
    assert "/tmp/" not in text
