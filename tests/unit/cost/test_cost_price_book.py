"""Price books: those that come along, and what is wrong with others."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import yaml

from infiniray.cost.price_book import FunctionRates, load_price_book
from infiniray.errors import ConfigError, PriceMissing

CONFIGS = Path(__file__).parents[3] / "configs"
SOURCE = {"source": "a price list", "date": datetime.date(2026, 1, 1)}
MINIMAL = {
    "title": "mine",
    "as_of": datetime.date(2026, 1, 1),
    "lambda_billing": {"step_ms": 1, "init_billed": True, **SOURCE},
    "entries": {
        "lambda.request": {"usd": 0.2, "quantity": 1_000_000, "per": "request", **SOURCE},
        "elasticache.node.small": {"usd": 0.5, "per": "hour", "capacity_gib": 2, **SOURCE},
    },
}


def written(path: Path, book: object) -> Path:
    file = path / "mine.yaml"
    file.write_text(yaml.safe_dump(book))
    return file


@pytest.mark.parametrize("year", ["2019", "2026"])
def test_the_book_in_configs_is_the_one_that_comes_with_the_package(year: str) -> None:
    bundled, in_configs = load_price_book(year), load_price_book(CONFIGS / f"prices-{year}.yaml")
    assert in_configs.entries == bundled.entries
    assert (CONFIGS / f"prices-{year}.yaml").is_symlink(), "one copy, not two"


@pytest.mark.parametrize("year", ["2019", "2026"])
def test_no_price_is_younger_than_its_book(year: str) -> None:
    book = load_price_book(year)
    assert {name for name, price in book.entries.items() if price.date > book.as_of} == set()


def test_function_rates_then_and_now() -> None:
    then = FunctionRates(
        usd_per_request=pytest.approx(0.2e-6), usd_per_gb_second=1.66667e-5, step_ms=100, init_billed=False
    )
    assert load_price_book("2019").function_rates() == then
    now = load_price_book("2026").function_rates("arm")
    assert (now.usd_per_gb_second, now.step_ms, now.init_billed) == (1.33334e-5, 1, True)


@pytest.mark.parametrize(
    ("duration_ms", "step_ms", "billed_ms"),
    [(0, 1, 1), (0.2, 1, 1), (1, 1, 1), (1.01, 1, 2), (0.1 * 1000 + 1e-11, 100, 100), (100.1, 100, 200)],
)
def test_durations_are_rounded_up_to_the_step(duration_ms: float, step_ms: int, billed_ms: int) -> None:
    rates = FunctionRates(usd_per_request=0.0, usd_per_gb_second=0.0, step_ms=step_ms, init_billed=True)
    assert rates.billed_ms(duration_ms) == billed_ms


def test_a_missing_price_is_an_error_that_names_entry_and_file(tmp_path: Path) -> None:
    file = written(tmp_path, MINIMAL)
    with pytest.raises(PriceMissing, match=r"mine\.yaml has no entry 'lambda\.gb_second\.x86'") as caught:
        load_price_book(file).function_rates()
    assert (caught.value.entry, caught.value.file) == ("lambda.gb_second.x86", str(file))


def test_a_price_for_another_unit_is_not_used(tmp_path: Path) -> None:
    book = load_price_book(written(tmp_path, MINIMAL))
    with pytest.raises(ConfigError, match="per 'hour', needed per 'month'"):
        book.price("elasticache.node.small", per="month")


def test_what_was_not_offered_is_known_by_its_group() -> None:
    book = load_price_book("2019")
    assert book.why_not_offered("s3.express.get") == book.why_not_offered("s3.express") == "only since 2023-11-28"
    assert book.why_not_offered("s3.expressive") is None
    with pytest.raises(PriceMissing):
        book.price("s3.express.get", per="request")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"entries": {"a": {"usd": -1.0, "per": "hour", **SOURCE}}}, r"entries\.a\.usd.*greater than or equal to 0"),
        ({"entries": {"a": {"usd": float("nan"), "per": "hour", **SOURCE}}}, r"entries\.a\.usd"),
        ({"entries": {"a": {"usd": "1.0", "per": "hour", **SOURCE}}}, r"entries\.a\.usd.*valid number"),
        ({"entries": {"a": {"usd": 1.0, "per": "hour", "date": datetime.date(2026, 1, 1)}}}, r"entries\.a\.source"),
        ({"entries": {"a": {"usd": 1.0, "per": "hour", "source": "x"}}}, r"entries\.a\.date"),
        ({"entries": {"elasticache.node.a": {"usd": 1.0, "per": "hour", **SOURCE}}}, "capacity_gib"),
        ({"entries": {"a.b": {"usd": 1.0, "per": "hour", **SOURCE}}, "not_offered": {"a": "why"}}, "not offered"),
        ({"prices": {}}, "prices: Extra inputs"),
    ],
)
def test_a_bad_book_is_refused_with_the_place(tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_price_book(written(tmp_path, MINIMAL | change))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("a: [", "not YAML"), ("- 1", "not a mapping"), ("", "not a mapping"), ("a: 1\nb: 2\na: 3", "'a' is given twice")],
)
def test_what_is_no_book_at_all_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "no.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load_price_book(file)


def test_a_book_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot read price book 1999"):
        load_price_book("1999")
