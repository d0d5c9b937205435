"""selector=column: numbers of the pool or of a file as an order; every fault of theirs by name."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shards
from toy import turns

from xmas.cli.config import build
from xmas.data.pool import Pool
from xmas.features.clustering.kmeans import Clusters
from xmas.selection.methods.column import Column
from xmas.selection.methods.random import Random
from xmas.selection.protocol import Ranked
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Store, key
from xmas.store.feasible import check_all

SCORES = [3, 1, 4, 1, 5, 9, 2]
SOURCES = "aababab"  # a: rows 0 1 3 5 with 3 1 1 9; b: 2 4 6 with 4 5 2


def rank(selector: Column, pool: Pool) -> Ranked:
    return selector.rank(pool, np.random.default_rng(0), Store())


def order(selector: Column, pool: Pool) -> list[int]:
    return rank(selector, pool).order.tolist()


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Seven text-only rows with an id, a source and a quality."""
    return pool_of(tmp_path, [{"quality": score} for score in SCORES])


def pool_of(folder: Path, fields: list[dict[str, Any]], **options) -> Pool:
    records = [
        {"id": f"r{row}", "source": SOURCES[row], "conversations": turns("a", "b")} | field
        for row, field in enumerate(fields)
    ]
    (folder / "pool.json").write_text(json.dumps(records))
    return Pool(str(folder / "pool.json"), str(folder), **options)


@pytest.fixture
def scores(tmp_path: Path):
    """Writes a file of scores in the form of its suffix, from columns."""

    def write(name: str = "scores.csv", **columns: list) -> str:
        path = tmp_path / name
        rows = list(zip(*columns.values(), strict=True))
        if path.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.table(columns), path)
        elif path.suffix == ".csv":
            cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
            lines = [",".join(row) for row in [list(columns), *cells]]
            path.write_text("\n".join(lines) + "\n")
        else:
            records = [dict(zip(columns, row, strict=True)) for row in rows]
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(path)

    return write


# The order.


def test_the_highest_number_comes_first_and_ties_go_by_row(pool):
    ranked = rank(Column("quality"), pool)
    assert ranked.order.tolist() == [5, 4, 2, 0, 6, 1, 3]
    assert ranked.scores.tolist() == SCORES
    assert ranked.clusters.tolist() == [-1] * 7


def test_ascending_is_the_lowest_first_and_ties_go_by_row_too(pool):
    ranked = rank(Column("quality", order="ascending"), pool)
    assert ranked.order.tolist() == [1, 3, 6, 0, 2, 4, 5]
    assert ranked.scores.tolist() == [-score for score in SCORES]  # high is good, as everywhere


def test_every_source_keeps_its_share_at_every_budget(pool):
    """a at 1/8, 3/8, 5/8, 7/8, b at 1/6, 3/6, 5/6."""
    ranked = rank(Column("quality", within="sources"), pool)
    assert ranked.order.tolist() == [5, 4, 0, 2, 1, 6, 3]
    assert "".join(SOURCES[row] for row in ranked.order) == "abababa"
    assert len(set(ranked.clusters[[0, 1, 3, 5]])) == 1


@dataclasses.dataclass(frozen=True)
class Labelled(Clusters):
    """Two clusters of rows with an image, 0 1 3 5 and 2 4; row 6 has no image."""

    def of_pool(self, store: Store, has_image: np.ndarray) -> np.ndarray:
        assert has_image.tolist() == [True] * 6 + [False]
        return np.array([0, 0, 1, 0, 1, 0, 2])


def test_clusters_take_turns_the_largest_first(tmp_path):
    pool = pool_of(
        tmp_path,
        [
            {"image": "a.png", "conversations": turns("<image>a", "b"), "quality": score}
            if row < 6
            else {"quality": score}
            for row, score in enumerate(SCORES)
        ],
    )
    ranked = rank(Column("quality", within=Labelled(None, 2)), pool)
    assert ranked.order.tolist() == [5, 4, 6, 0, 2, 1, 3]
    assert ranked.clusters.tolist() == [0, 0, 1, 0, 1, 0, 2]


def test_a_rating_of_a_parquet_pool(tmp_path):
    folder = shards.write(tmp_path / "fine")
    ratings = [row % 4 for row in range(shards.ROWS)]
    assert order(Column("visual_dependency_min"), Pool(path=str(folder))) == sorted(
        range(shards.ROWS), key=lambda row: (-ratings[row], row)
    )


# Files of scores.


@pytest.mark.parametrize("name", ["scores.csv", "scores.jsonl", "scores.parquet"])
def test_a_file_joins_by_row_or_by_id_in_any_order_of_its_own(pool, scores, name):
    shuffled = [6, 0, 3, 5, 1, 4, 2]
    worth = [SCORES[row] / 2 for row in shuffled]
    by_row = scores(name, row=shuffled, worth=worth)
    assert order(Column(file=by_row), pool) == [5, 4, 2, 0, 6, 1, 3]
    by_id = scores(name, id=[f"r{row}" for row in shuffled], other=["x"] * 7, worth=worth)
    assert order(Column("worth", by_id), pool) == [5, 4, 2, 0, 6, 1, 3]
    named = scores(name, source=list("ab"), worth=[1, 2])
    with pytest.raises(ValueError, match=r"source 'a' is that of rows 0 and 1, so .* cannot tell"):
        order(Column(file=named, key="source"), pool)


def test_both_columns_there_the_row_counts_unless_the_key_is_named(pool, scores):
    file = scores(row=range(7), id=[f"r{6 - row}" for row in range(7)], worth=SCORES)
    assert order(Column("worth", file), pool)[0] == 5
    assert order(Column("worth", file, key="id"), pool)[0] == 1


def test_numbers_and_texts_are_the_same_id(tmp_path, scores):
    pool = pool_of(tmp_path, [{"id": row + 10} for row in range(7)])
    assert order(Column(file=scores(id=range(10, 17), worth=SCORES)), pool)[0] == 5


def test_the_scores_of_another_selector_are_scores(pool, tmp_path):
    store = Store(str(tmp_path / "store"))
    ranking = Subset(Ranking(pool, Column("quality")), rows=2)
    file = str(store.get(ranking) / "ranking.parquet")
    assert order(Column("score", file, order="ascending"), pool) == [1, 3, 6, 0, 2, 4, 5]


def test_more_rows_than_the_pool_s_are_no_fault_where_ids_name_them(pool, scores, caplog):
    file = scores(id=[f"r{row}" for row in range(9)], worth=[*SCORES, 50, 60])
    assert order(Column(file=file), pool)[0] == 5
    assert "scores.csv: 2 of its 9 rows are not of this pool" in caplog.text


def test_row_numbers_are_those_of_the_pool_s_file_also_where_rows_are_left_out(tmp_path, scores):
    fields: list[dict] = [{} for _ in range(7)]
    fields[2] = {"conversations": []}  # left out
    pool = pool_of(tmp_path, fields, invalid="skip")
    file = scores(row=range(7), worth=[0, 1, 99, 3, 4, 5, 6])
    store = Store(str(tmp_path / "store"))
    ranked = Column(file=file).rank(pool, np.random.default_rng(0), store)
    assert ranked.scores.tolist() == [0, 1, 3, 4, 5, 6]


def test_rows_without_a_number_come_last_where_that_is_wished(tmp_path, scores):
    fields = [{"quality": score} if score > 1 else {} for score in SCORES]
    pool = pool_of(tmp_path, fields)
    ranked = rank(Column("quality", missing="last"), pool)
    assert ranked.order.tolist() == [5, 4, 2, 0, 6, 1, 3]
    assert np.isnan(ranked.scores[[1, 3]]).all()
    file = scores(row=[5, 1, 4], worth=[1, None, 2])
    ranked = rank(Column(file=file, missing="last", within="sources"), pool)
    assert ranked.order.tolist() == [5, 4, 0, 2, 1, 6, 3]  # of a: 5, then 0 1 3; of b: 4, then 2 6


def test_a_sweep_over_selectors_has_the_settings_of_rating(compose):
    """Where the selector's own would stop it at one that has no column."""
    rating = ["rating.column=quality", "rating.order=ascending", "rating.within=sources"]
    assert build(compose("selector=random", *rating).selector) == Random()
    column = build(compose("selector=column", *rating).selector)
    assert column == Column("quality", order="ascending", within="sources")
    assert build(compose("selector=column", "selector.column=other", *rating).selector) == (
        dataclasses.replace(column, column="other")
    )
    clusters = build(
        compose("selector=column", "selector.within=${clusters.trajectories}").selector
    )
    assert isinstance(clusters.within, Clusters)


# The identity.


def test_the_content_of_the_file_is_part_of_the_key_and_its_path_is_not(pool, scores):
    def key_of(file: str, **options) -> str:
        return key(Ranking(pool, Column(file=file, **options)))

    first = key_of(scores(row=range(7), worth=SCORES))
    assert first == key_of(scores("copy.csv", row=range(7), worth=SCORES))
    assert first != key_of(scores("copy.csv", row=range(7), worth=[*SCORES[:6], 3]))
    assert first != key_of(scores(row=range(7), worth=SCORES), order="ascending")


def test_what_is_wrong_is_refused_before_anything_is_computed(pool, scores, tmp_path):
    store = Store(str(tmp_path / "store"))
    selector = Column(file=scores(row=range(6), worth=SCORES[:6]))
    with pytest.raises(ValueError, match=r"has no row for 1 of the pool's 7 rows, first row 6"):
        check_all(Subset(Ranking(pool, selector), rows=2), store)
    check_all(Subset(Ranking(pool, Column("quality")), rows=2), store)
    assert not (tmp_path / "store").exists()


def test_a_file_that_is_not_there_is_named_before_anything_is_read(pool):
    with pytest.raises(FileNotFoundError, match=r"^file=lost\.csv: there is no such file; correct"):
        key(Ranking(pool, Column(file="lost.csv")))


def test_another_number_in_the_pool_is_another_pool(tmp_path):
    keys = set()
    for last in (2, 3):
        pool = pool_of(tmp_path, [{"quality": score} for score in [*SCORES[:6], last]])
        keys.add(key(Ranking(pool, Column("quality"))))
    assert len(keys) == 2


# Faults.


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("s.csv", {"row": [0, 1, 1], "worth": [1, 2, 3]},
         r"s\.csv: row 1 is there twice, in line 3 and line 4; keep one of them"),
        ("s.jsonl", {"id": ["r0", "r1", "r0"], "worth": [1, 2, 3]},
         r"s\.jsonl: id r0 is there twice, in line 1 and line 3; keep one"),
        ("s.parquet", {"row": [0, 1, 7], "worth": [1, 2, 3]},
         r"s\.parquet: row 2 has row 7; the pool has rows 0 to 6, .*selector\.key=id"),
        ("s.csv", {"row": [0, -1], "worth": [1, 2]}, r"line 3 has row -1; the pool has rows 0"),
        ("s.csv", {"row": [0, 1.5], "worth": [1, 2]}, r"line 3 has row 1\.5; the pool has rows 0"),
        ("s.csv", {"row": [0, 5], "worth": [1, 2]},
         r"has no row for 5 of the pool's 7 rows, first row 1; .*selector\.missing=last"),
        ("s.csv", {"id": ["r0", None], "worth": [1, 2]}, r"line 3 has no id; add it, or remove"),
        ("s.csv", {"row": range(7), "worth": [*SCORES[:6], "good"]},
         r"s\.csv: line 8 has worth 'good', which is text, not a number; .*selector\.column"),
        ("s.jsonl", {"row": range(7), "worth": [*SCORES[:6], True]},
         r"line 7 has worth True, which is true or false, not a number"),
        ("s.jsonl", {"row": range(7), "worth": [*SCORES[:6], [1]]},
         r"line 7 has worth \[1\], which is of type list, not a number"),
        ("s.csv", {"row": [*range(1, 7), 0], "worth": [*SCORES[:6], "inf"]},
         r"line 8 has worth inf, which is not finite; correct it"),
        ("s.parquet", {"row": range(7), "worth": [*SCORES[:6], float("-inf")]},
         r"s\.parquet: row 6 has worth -inf, which is not finite"),
        ("s.parquet", {"row": range(7), "worth": list("abcdefg")},
         r"s\.parquet: row 0 has worth 'a', which is text, not a number"),
        ("s.parquet", {"row": range(7), "worth": [1, None, None, 1, 1, 1, 1]},
         r"row 1 has no worth, and with it 2 of 7 rows; .*selector\.missing=last"),
        ("s.csv", {"row": range(7), "worth": ["nan", *SCORES[:6]]}, r"line 2 has no worth, and"),
        ("s.csv", {"number": [0], "worth": [1]},
         r"no column 'row' .*no column 'id'; add one, or set selector\.key .*are number, worth"),
        ("s.csv", {"row": [0]}, r"selector\.column is not set; .*There are none besides row"),
        ("s.csv", {"row": [0], "good": [1], "bad": [2]},
         r"selector\.column is not set; name the column of the scores\. There are good, bad"),
        ("s.json", {"row": [0], "good": [1]}, r"ends in \.parquet, \.csv or \.jsonl; convert it"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_by_name(pool, scores, name, columns, message):
    file = scores(name, **{column: list(values) for column, values in columns.items()})
    with pytest.raises(ValueError, match=message) as refused:
        order(Column(file=file), pool)
    assert str(refused.value).startswith(file)


def test_a_column_that_the_file_does_not_have_is_answered_with_the_nearest(pool, scores):
    file = scores(row=range(7), worth=SCORES)
    for selector, message in (
        (Column("wroth", file), "selector.column=wroth is no column; did you mean worth? There"),
        (Column(file=file, key="rows"), "selector.key=rows is no column; did you mean row? There"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            order(selector, pool)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'row,worth\n0,"a,b",1\n', r"s\.csv: line 2 has 3 cells, the first line 2; put texts"),
        (b"", r"s\.csv: has no column 'row' .* There are none"),
        (b"row,a,a\n", r"s\.csv: columns 2 and 3 are both called 'a'; rename one"),
        (b"row,worth\n0,\xff\n", r"s\.csv: is not in UTF-8 .*; save it as UTF-8"),
        (b'{"row": 0\n', r"s\.jsonl: line 1 is no JSON"),
        (b"[0, 1]\n", r"s\.jsonl: line 1 is \[0, 1\]; one object a line is expected"),
        (b"PAR1", r"s\.parquet: is no whole Parquet file"),
    ],
)
def test_a_damaged_file_is_refused_by_name(pool, tmp_path, content, message):
    file = tmp_path / re.search(r"s\\\.(\w+)", message)[0].replace("\\", "")
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        order(Column(file=str(file)), pool)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([{"quality": 1}, {"quality": "low"}], r"row 1 has quality 'low', which is text, not a"),
        ([{"quality": 1}, {}], r"row 1 has no quality, and with it 1 of 2 rows; .*missing=last"),
        ([{"quality": True}, {"quality": False}], r"row 0 has quality True, which is true or fal"),
        ([{"quality": 1}, {"quality": 1e999}], r"row 1 has quality inf, which is not finite"),
        ([{"other": 1}], r"no record has 'quality'; row 0 has id, source, conversations, other"),
    ],
)
def test_a_pool_without_a_number_in_every_row_is_refused_by_row(tmp_path, fields, message):
    pool = pool_of(tmp_path, fields)
    with pytest.raises(ValueError, match=message) as refused:
        order(Column("quality"), pool)
    assert str(refused.value).startswith(str(tmp_path / "pool.json"))


def test_settings_that_are_none_are_refused(pool):
    for options, message in (
        ({"order": "up"}, "selector.order='up': expected one of descending, ascending"),
        ({"missing": "skip"}, "selector.missing='skip': expected one of error, last"),
        ({"within": "source"}, "selector.within='source': expected sources, or clusters"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            Column("quality", **options)
    with pytest.raises(ValueError, match=r"selector\.column is not set; .* has id, source, conv"):
        order(Column(), pool)
