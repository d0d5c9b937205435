"""Budgets: exact in size, nested in each other, kept to the policy, and copied byte for byte."""

import bisect
import dataclasses
import hashlib
import inspect
import json
import re
from typing import ClassVar

import numpy as np
import pytest
from toy import ROWS, TEXT_ONLY, Toy

from xmas.data.pool import Pool
from xmas.selection.budget import TEXT_ONLY as POLICIES
from xmas.selection.budget import budget_of, check_settings
from xmas.selection.budget import cut as cut_checked
from xmas.selection.methods.full import Full
from xmas.selection.methods.random import Random
from xmas.selection.protocol import BudgetSelector, Selector
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Store

# Without the tests' type hook, as users have them, and for thousands of calls.
unchecked = inspect.unwrap(budget_of)
cut = inspect.unwrap(cut_checked)


@pytest.mark.parametrize(
    ("fraction", "count", "budget"),
    [(0.29, 100, 29), (0.57, 100, 57), (1, 7, 7), (1.0, 7, 7), (0.5, 7, 3), (1e-3, 1000, 1),
     (0.07, 300, 21), (0.1, 665_298, 66_529)],
)  # fmt: skip
def test_a_fraction_is_floored_in_decimal_arithmetic(fraction, count, budget):
    assert budget_of(count, fraction=fraction, rows=None) == budget


def test_float_arithmetic_would_lose_a_row():
    assert int(0.29 * 100) == 28  # what the decimals are for


@pytest.mark.parametrize("rows", [1, 6, 7])
def test_rows_win_over_a_fraction(rows):
    assert budget_of(7, fraction=0.5, rows=rows) == rows


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fraction": 0.0}, r"subset\.fraction=0\.0 is not within \(0, 1\]; for a count use"),
        ({"fraction": -0.1}, r"subset\.fraction=-0\.1 is not within"),
        ({"fraction": 20}, r"subset\.fraction=20 is not within \(0, 1\].*subset\.rows"),
        ({"fraction": float("nan")}, r"subset\.fraction=nan is not within"),
        ({"fraction": "abc"}, r"subset\.fraction='abc' is not a number; give a share"),
        ({"fraction": True}, r"subset\.fraction=True is not a number"),
        ({"fraction": None}, r"subset\.fraction=None is not a number"),
        ({"fraction": 0.01}, r"subset\.fraction=0\.01 of 41 rows is none; raise it"),
        ({"rows": 0}, r"subset\.rows=0 is not within 1 and the rows of the pool"),
        ({"rows": 42}, r"subset\.rows=42 is not within 1 and the 41 rows"),
        ({"rows": 0.5}, r"subset\.rows=0\.5 is not a whole number; give a count"),
        ({"rows": "abc"}, r"subset\.rows='abc' is not a whole number"),
        ({"rows": True}, r"subset\.rows=True is not a whole number"),
    ],
    ids=str,
)
def test_what_is_no_budget_is_refused(given, message):
    budget = {"fraction": None, "rows": None} | given
    with pytest.raises(ValueError, match=message):  # noqa: PT012 (whichever refuses first)
        check_settings(**budget, text_only="ranked")
        unchecked(41, **budget)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("subset.fraction=2", r"subset\.fraction=2 is not within \(0, 1\]"),
        ("subset.rows=0", r"subset\.rows=0 is not within 1 and"),
        (
            "subset.text_only=rankd",
            r"subset\.text_only='rankd' is no policy; did you mean ranked\? There are pr",
        ),
        ("seed=abc", r"^xmas: seed='abc' is not a whole number from 0 up"),
        ("seed=-1", r"^xmas: seed=-1 is not a whole number from 0 up"),
    ],
)
@pytest.mark.parametrize("goal", ["subset", "scores"])
def test_what_is_wrong_in_any_pool_is_refused_before_anything_is_computed(
    goal, override, message, server, tmp_path
):
    ended = server.command(f"goal={goal}", override, cwd=tmp_path)
    assert ended.returncode == 1
    assert re.search(message, ended.stderr, re.MULTILINE), ended.stderr
    assert not list(tmp_path.glob("store/*/*"))


def pools(seed: int, cases: int):
    """Random pools: an order, which rows have an image, and three sources, one of them mixed."""
    rng = np.random.default_rng(seed)
    for _ in range(cases):
        count = int(rng.integers(1, 44))
        has_image = rng.random(count) < rng.choice([0.0, 0.3, 0.9, 1.0])
        sources = rng.choice(["a", "b", "ü"], size=count)
        yield rng.permutation(count), has_image, sources


def wanted_texts(policy: str, budget: int, textual: int, count: int) -> int | None:
    """How many text-only rows a policy wants, in exact arithmetic; `None`: as they come."""
    if policy == "proportional":
        whole, rest = divmod(budget * textual, count)
        return whole + (2 * rest >= count)
    return {"exclude": 0, "keep_all": textual, "ranked": None}[policy]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_budget_is_exact_kept_to_the_policy_and_nested(policy):
    feasible = refused = 0
    for order, has_image, sources in pools(seed=1, cases=150):
        before: set[int] = set()
        image_rows, textual_rows = (
            order[has_image[order]].tolist(),
            order[~has_image[order]].tolist(),
        )
        textual, pictured = len(textual_rows), len(image_rows)
        for budget in range(1, len(order) + 1):
            texts = wanted_texts(policy, budget, textual, len(order))
            if texts is not None and not 0 <= budget - texts <= pictured:
                counts = rf"a budget of {budget} rows is (under|over) the \d+ rows that text_only="
                with pytest.raises(ValueError, match=counts + policy):
                    cut(order, budget, has_image=has_image, sources=sources, text_only=policy)
                refused += 1
                continue
            rows = cut(order, budget, has_image=has_image, sources=sources, text_only=policy)
            chosen = set(rows.tolist())
            assert len(chosen) == budget
            assert rows.tolist() == sorted(chosen)
            assert before <= chosen
            if texts is not None:
                assert (~has_image[rows]).sum() == texts
                for best, taken in ((textual_rows, texts), (image_rows, budget - texts)):
                    assert set(best[:taken]) <= chosen
            else:
                assert chosen == set(order[:budget].tolist())
            before, feasible = chosen, feasible + 1
    assert feasible > 500
    assert (refused == 0) == (policy in ("proportional", "ranked"))


@pytest.mark.parametrize("policy", POLICIES)
def test_floors_and_caps_are_kept_to_by_the_best_rows_and_subsets_stay_nested(policy):
    rng = np.random.default_rng(2)
    met = capped = 0
    for order, has_image, sources in pools(seed=3, cases=150):
        given = {"has_image": has_image, "sources": sources, "text_only": policy}
        allowed = order[has_image[order]] if policy == "exclude" else order
        has = {str(name): allowed[sources[allowed] == name] for name in np.unique(sources)}
        of_source = {name: {*np.flatnonzero(sources == name).tolist()} for name in has}
        caps = {name: int(rng.integers(0, len(best) + 1)) for name, best in has.items()}
        floors = {name: int(rng.integers(0, cap + 1)) for name, cap in caps.items()}
        if rng.random() < 0.5:  # a source without a cap, one without a floor
            caps.pop(str(rng.choice(list(caps))))
            floors.pop(str(rng.choice(list(floors))))
        has = {name: best.tolist() for name, best in has.items()}
        before: set[int] = set()
        for budget in range(1, len(order) + 1):
            try:
                rows = cut(order, budget, **given, floors=floors, caps=caps)
            except ValueError:  # too small or too large a budget for policy, floors and caps
                continue
            texts = wanted_texts(policy, budget, int((~has_image).sum()), len(order))
            if policy in ("proportional", "exclude"):
                assert (~has_image[rows]).sum() == texts
            chosen = set(rows.tolist())
            assert len(rows) == len(chosen) == budget
            assert before <= chosen
            for name, best in has.items():
                taken = chosen & of_source[name]
                assert taken >= set(best[: floors.get(name, 0)])
                assert taken <= set(best[: caps.get(name, len(best))])
                capped += len(taken) == caps.get(name)
            before, met = chosen, met + 1
    assert met > 500
    assert capped > 100


@pytest.mark.parametrize("policy", POLICIES)
def test_tokens_are_the_longest_beginning_that_does_not_exceed_them(policy):
    rng = np.random.default_rng(4)
    checked = 0
    for order, has_image, _ in pools(seed=6, cases=60):
        given = {"has_image": has_image, "text_only": policy}
        lengths = rng.integers(1, 8, size=len(order))
        before: set[int] = set()
        feasible = {}
        for budget in range(1, len(order) + 1):
            try:
                feasible[budget] = cut(order, budget, **given)
            except ValueError:
                continue
        spent = {budget: int(lengths[rows].sum()) for budget, rows in feasible.items()}
        budgets, totals = [*spent], [*spent.values()]
        assert totals == sorted(totals)
        for tokens in range(min(totals, default=0), max(totals, default=-1) + 1):
            rows = cut(order, tokens, **given, lengths=lengths)
            best = budgets[bisect.bisect_right(totals, tokens) - 1]
            assert rows.tolist() == feasible[best].tolist()
            assert tokens - spent[best] < 7  # short by less than a row
            chosen = set(rows.tolist())
            assert before <= chosen
            before, checked = chosen, checked + 1
    assert checked > 3000


def test_tokens_by_hand():
    given = {
        "has_image": np.array([True, True, True, False]),
        "sources": np.array(["a", "a", "b", "t"]),
        "text_only": "ranked",
        "lengths": np.array([5, 2, 9, 4]),
    }
    order = np.array([1, 3, 2, 0])  # 2, 6, 15, 20 tokens
    assert cut(order, 2, **given).tolist() == [1]
    assert cut(order, 14, **given).tolist() == [1, 3]
    assert cut(order, 15, **given).tolist() == [1, 2, 3]
    assert cut(order, 20, **given).tolist() == [0, 1, 2, 3]
    with pytest.raises(
        ValueError, match=r"subset\.tokens=1, which 0 rows fill, is under the 1 rows"
    ):
        cut(order, 1, **given)
    with pytest.raises(ValueError, match=r"subset\.tokens=21 is over the 20 tokens of the 4 rows"):
        cut(order, 21, **given)


def test_the_types_of_a_cut_are_checked():
    rows = cut_checked(np.arange(3), 2, has_image=np.ones(3, bool), sources=np.array(["a"] * 3))
    assert rows.tolist() == [0, 1]


def test_floors_move_the_best_of_a_source_in_front_by_hand():
    given = {
        "has_image": np.array([True, True, True, True, False, False]),
        "sources": np.array(["a", "a", "b", "b", "b", "t"]),
    }
    order = np.array([0, 5, 1, 4, 3, 2])
    assert cut(order, 3, **given, text_only="ranked").tolist() == [0, 1, 5]
    floored = cut(order, 3, **given, text_only="ranked", floors={"b": 2})
    assert floored.tolist() == [0, 3, 4]  # 4 and 3 are the best of b, then the order
    by_policy = cut(order, 3, **given, text_only="proportional", floors={"b": 2})
    assert by_policy.tolist() == [0, 3, 4]  # one text-only row of three: 4, as b's floor says
    without = cut(order, 3, **given, text_only="exclude", floors={"b": 2})
    assert without.tolist() == [0, 2, 3]


def test_caps_pass_over_the_worst_of_a_source_by_hand():
    given = {
        "has_image": np.array([True, True, True, True, False, False]),
        "sources": np.array(["a", "a", "b", "b", "b", "t"]),
    }
    order = np.array([0, 5, 1, 4, 3, 2])
    capped = cut(order, 3, **given, text_only="ranked", caps={"a": 1})
    assert capped.tolist() == [0, 4, 5]
    both = cut(order, 3, **given, text_only="ranked", caps={"a": 1, "t": 0}, floors={"b": 2})
    assert both.tolist() == [0, 3, 4]
    by_policy = cut(order, 3, **given, text_only="proportional", caps={"a": 1, "t": 0})
    assert by_policy.tolist() == [0, 3, 4]  # one text-only row of three, and it is b's


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"floors": {"b": 3, "a": 2}},
            "budget of 4 rows is under the 5 rows that text_only=ranked",
        ),
        ({"floors": {"a": 3}}, "floors want 3 rows of 'a', the pool has 2"),
        ({"floors": {"t": 1}, "text_only": "exclude"}, "floors want 1 rows of 't', the pool has 0"),
        ({"floors": {"a": -1}}, "floors want -1 rows of 'a'"),
        ({"floors": {"coco": 1}}, r"floors name \['coco'\]; the sources are \['a', 'b', 't'\]"),
        ({"caps": {"coco": 1}}, r"caps name \['coco'\]; the sources are \['a', 'b', 't'\]"),
        ({"caps": {"a": -1}}, "caps allow -1 rows of 'a'; give a count from 0 up"),
        ({"floors": {"b": 2}, "caps": {"b": 1}}, "floors want 2 rows of 'b', caps allow 1"),
        (
            {"caps": {"b": 0, "t": 0}},
            "budget of 4 rows is over the 2 rows that text_only=ranked an",
        ),
        (
            {"caps": {"t": 0, "b": 0}, "text_only": "proportional", "budget": 2},
            "budget of 2 rows is over the 1 rows that text_only=proportional and caps leave of 4 w",
        ),
        (
            {"text_only": "some"},
            r"subset\.text_only='some' is no policy\. There are proportional, e",
        ),
        (
            {"text_only": "exclude", "budget": 5},
            "budget of 5 rows is over the 4 rows that text_onl",
        ),
        (
            {"text_only": "keep_all", "budget": 1},
            "budget of 1 rows is under the 2 rows that text_o",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_met_is_refused_by_name(options, message):
    options = {"budget": 4, "text_only": "ranked"} | options
    with pytest.raises(ValueError, match=message):
        cut(
            np.arange(6),
            has_image=np.array([True, True, True, True, False, False]),
            sources=np.array(["a", "a", "b", "b", "b", "t"]),
            **options,
        )


def test_the_written_instructions_are_the_pool_s_records_byte_for_byte(toy: Toy):
    subset = toy.subset(Full(), rows=17, text_only="proportional")
    folder = toy.store.get(subset)
    rows = json.loads((folder / "rows.json").read_text())
    examples = toy.pool.open()
    written = (folder / "instructions.json").read_bytes()
    assert written == b"[\n" + b",\n".join(examples.raw(row) for row in rows) + b"\n]\n"
    assert json.loads(written) == [examples[row] for row in rows]
    assert written.count("élèves".encode()) == sum(examples.sources[rows] == "élèves") > 0
    assert rows == sorted(set(rows)) == subset.chosen(toy.store).tolist()
    assert len(rows) == 17


@dataclasses.dataclass(frozen=True)
class Peeking(Random):
    """A random order that claims to have seen a benchmark's validation rows."""

    saw_validation: ClassVar[bool] = True


def test_the_manifest_says_whether_validation_data_was_seen(toy: Toy):
    for selector, seen in ((Peeking(), True), (Random(), False)):
        folder = toy.store.get(toy.subset(selector))
        assert json.loads((folder / "manifest.json").read_text())["saw_validation"] is seen


def test_the_manifest_counts_what_was_written(toy: Toy):
    subset = toy.subset(rows=17, text_only="proportional")
    folder = toy.store.get(subset)
    manifest = json.loads((folder / "manifest.json").read_text())
    rows = json.loads((folder / "rows.json").read_text())
    examples = toy.pool.open()
    counted = {
        "rows": 17,
        "pool_rows": ROWS,
        "sha256_of_pool": hashlib.sha256((toy.folder / "pool.json").read_bytes()).hexdigest(),
        "sha256_of_rows": hashlib.sha256((folder / "rows.json").read_bytes()).hexdigest(),
        "text_only": 3,  # 17 * 7 / 41 = 2.9
        "sources": {
            name: examples.sources[rows].tolist().count(name)
            for name in sorted(set(examples.sources[rows].tolist()))
        },
        "selector": "random",
        "nested": True,
        "saw_validation": False,
        "seed": 0,
        "form": "llava",  # of the pool
    }
    assert {name: manifest[name] for name in counted} == counted
    assert manifest["config"]["ranking"]["selector"]["type"] == "Random"
    assert {"python", "numpy", "torch", "transformers"} <= set(manifest["versions"])
    assert set(manifest) - set(counted) == {"config", "versions", "commit", "seconds"}
    assert manifest["seconds"] >= 0
    assert sum(row in TEXT_ONLY for row in rows) == 3


def test_a_subset_of_all_rows_is_the_pool(toy: Toy):
    whole = json.loads((toy.folder / "pool.json").read_text("utf-8"))
    for selector in (Full(), None):
        folder = toy.store.get(toy.subset(selector, rows=None, fraction=1.0))
        assert json.loads((folder / "rows.json").read_text()) == list(range(ROWS))
        assert json.loads((folder / "instructions.json").read_text("utf-8")) == whole


def test_a_subset_is_a_pool_to_choose_from(toy: Toy):
    folder = toy.store.get(toy.subset(rows=17))
    again = Pool(str(folder / "instructions.json"), str(toy.folder / "images")).open()
    assert len(again) == 17


def test_budgets_of_one_ranking_are_nested(toy: Toy):
    for policy in ("proportional", "ranked", "exclude"):
        chosen = [
            set(toy.subset(rows=rows, text_only=policy).chosen(toy.store).tolist())
            for rows in (2, 5, 13, 29)
        ]
        assert [len(rows) for rows in chosen] == [2, 5, 13, 29]
        assert chosen[0] < chosen[1] < chosen[2] < chosen[3]


def test_a_budget_in_tokens_is_kept_within_a_row(toy: Toy):
    lengths = toy.proxy.tokens().open(toy.store).text_lengths
    order = np.load(toy.store.get(toy.subset().ranking) / "order.npy")
    half = int(lengths.sum()) // 2
    subset = Subset(toy.subset().ranking, tokens=half, counted=toy.proxy, text_only="ranked")
    rows = subset.chosen(toy.store)
    assert sorted(order[: len(rows)]) == rows.tolist()
    assert half - lengths[order[len(rows)]] < lengths[rows].sum() <= half
    manifest = json.loads((toy.store.get(subset) / "manifest.json").read_text())
    assert manifest["tokens"] == lengths[rows].sum()
    assert manifest["rows"] == len(rows)


def test_the_counting_proxy_is_no_part_of_a_budget_in_rows(toy: Toy):
    given = {"rows": 5, "counted": toy.proxy}
    assert Subset(toy.subset().ranking, **given) == Subset(toy.subset().ranking, rows=5)
    assert Subset(toy.subset().ranking, tokens=5, counted=toy.proxy).counted == toy.proxy


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokens": 9, "rows": 3}, r"subset\.rows=3 and subset\.tokens=9: give one"),
        ({"tokens": 9}, r"subset\.tokens needs subset\.counted"),
    ],
    ids=str,
)
def test_tokens_that_cannot_be_counted_are_refused(toy: Toy, given, message):
    with pytest.raises(ValueError, match=message):
        toy.store.get(Subset(toy.subset().ranking, **given))


def test_the_parquet_file_has_every_row_with_rank_score_and_cluster(toy: Toy):
    parquet = pytest.importorskip("pyarrow.parquet")
    subset = toy.subset(toy.length, rows=17)
    folder = toy.store.get(subset)
    table = parquet.read_table(folder / "ranking.parquet").to_pydict()
    ranked = Ranking.read(toy.store.get(subset.ranking))
    assert list(table) == ["row", "source", "has_image", "chosen", "rank", "score", "cluster"]
    assert table["row"] == list(range(ROWS))
    assert np.flatnonzero(table["chosen"]).tolist() == subset.chosen(toy.store).tolist()
    assert [table["rank"][row] for row in ranked.order] == list(range(ROWS))
    assert table["score"] == ranked.scores.tolist()
    assert table["cluster"] == ranked.clusters.tolist()
    assert np.flatnonzero(np.logical_not(table["has_image"])).tolist() == list(TEXT_ONLY)
    assert table["source"] == toy.pool.open().sources.tolist()
    random = parquet.read_table(toy.store.get(toy.subset(rows=17)) / "ranking.parquet").to_pydict()
    assert set(random["score"]) == set(random["cluster"]) == {None}


# Selectors whose rule is not nested.


@dataclasses.dataclass(frozen=True)
class Drawn:
    """So many image rows at random, drawn anew for every budget, and what a test spoils of them."""

    spoilt: str = "no"

    def select(self, pool: Pool, budget: int, rng: np.random.Generator, store: Store):
        images = np.flatnonzero(pool.open(store).has_image)
        picked = rng.choice(images, size=budget, replace=False)
        match self.spoilt:
            case "short":
                return picked[1:]
            case "twice":
                picked[0] = picked[1]
            case "text":
                picked[0] = TEXT_ONLY[0]
            case "beyond":
                picked[0] = ROWS
        return picked


def test_a_budget_selector_is_asked_for_the_image_rows(toy: Toy):
    assert isinstance(Drawn(), BudgetSelector)
    assert not isinstance(Drawn(), Selector)
    has_image = toy.pool.open().has_image
    wanted = {"proportional": 3, "exclude": 0, "keep_all": 7, "ranked": 0}  # text-only rows of 17
    for policy, texts in wanted.items():
        subset = toy.subset(Drawn(), rows=17, text_only=policy)
        rows = subset.chosen(toy.store)
        assert len(set(rows.tolist())) == 17
        assert (~has_image[rows]).sum() == texts
        images = Drawn().select(toy.pool, 17 - texts, subset.ranking.rng(), toy.store)
        assert sorted(images) == rows[has_image[rows]].tolist()
        manifest = json.loads((toy.store.get(subset) / "manifest.json").read_text())
        assert (manifest["selector"], manifest["nested"]) == ("drawn", False)


def test_a_budget_selector_is_not_nested_and_says_so(toy: Toy):
    subsets = [toy.subset(Drawn(), rows=rows) for rows in (11, 13)]
    small, large = (set(subset.chosen(toy.store).tolist()) for subset in subsets)
    assert not small < large
    assert not any(subset.nested for subset in subsets)
    assert toy.subset().nested
    with pytest.raises(
        ValueError, match="selector=drawn is not nested and ranks nothing; use goal="
    ):
        toy.store.get(subsets[0].ranking)


@pytest.mark.parametrize(
    ("spoilt", "options", "message"),
    [
        ("short", {}, "drawn selected 16 rows, 16 of them different; 17 were wanted"),
        ("twice", {}, "drawn selected 17 rows, 16 of them different; 17 were wanted"),
        ("beyond", {}, "drawn selected rows 0 to 41; the pool has 41"),
        ("text", {"text_only": "exclude"}, "drawn selected 1 text-only rows; text_only=exclude"),
        ("no", {"floors": {"top.png": 1}}, "selector=drawn selects for a number of rows and ranks"),
        ("no", {"text_only": "exclude", "rows": 35}, "budget of 35 rows is over the 34 rows that"),
    ],
)
def test_what_a_budget_selector_cannot_or_does_not_give_is_refused(toy, spoilt, options, message):
    options = {"rows": 17, "text_only": "ranked"} | options
    with pytest.raises(ValueError, match=message):
        toy.store.get(toy.subset(Drawn(spoilt), **options))
