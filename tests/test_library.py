"""xmas from Python: results as DataFrames, and the notebook of `experiments/library`."""

import json
import math
from pathlib import Path

import pytest
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


# A kernel of its own process warns about ports; what runs in it is not held to that.
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs(store, notebook, tmp_path, monkeypatch):
    client = pytest.importorskip("nbclient").NotebookClient
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("XMAS_STORE", store.root)
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[2]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    given = {"metadata": {"path": str(tmp_path)}}
    client(notebook, kernel_name="python3", timeout=120, resources=given).execute()
    said = [
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    assert said[0] == "(60, 54, [('How dark is it?', '28 of 255')])"
    assert said[2] == "{'Random': True, 'Stratified': True}"
    assert "57.0" in said[-2]  # the mean of xmas


def test_the_notebook_as_it_is_kept_ran_through_and_names_no_machine():
    kept = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in kept["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    text = json.dumps(kept)
    assert '"error"' not in text
    assert "/home/" not in text
    assert "/tmp/" not in text
