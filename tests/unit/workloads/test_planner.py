"""The planner: it finds the cheapest that does, spares simulations, and says so when nothing does.

Evaluation is a formula here; what a simulation finds is not the planner's matter.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest

from infiniray.codec.schemes import Scheme
from infiniray.config import Config
from infiniray.cost.price_book import load_price_book
from infiniray.errors import ConfigError
from workloads.planner.arithmetic import Arithmetic, TraceProfile, profile_trace
from workloads.planner.configured import configured, settings_in, space_around
from workloads.planner.plan import Plan, Tried, pareto
from workloads.planner.report import margin, plan_document, plan_figure, verdict
from workloads.planner.search import Budget, search
from workloads.planner.space import Goal, Outcome, Settings, Space, Stage
from workloads.trace import Method, Request

BEST = 0.6
SPACE = Space(
    n_nodes=(50, 100, 200, 400),
    memory_mb=(1024, 2048),
    scheme=("rs:10+1", "rs:10+2", "rs:10+4"),
    warm_every_s=(60.0, 300.0),
    backup_every_s=(0.0, 900.0, 300.0),
    linger_s=(0.008, 0.1),
)


def requests(n: int = 400, n_keys: int = 40, size_bytes: int = 50_000_000) -> list[Request]:
    rng = random.Random(3)
    return [Request(timestamp_s=i * 60.0, key=f"k{rng.randrange(n_keys)}", size_bytes=size_bytes) for i in range(n)]


def arithmetic() -> Arithmetic:
    return Arithmetic(profile=profile_trace(requests()), rates=load_price_book("2026").function_rates())


class Formula:
    """More parity and more backups lose less; nodes, backups and warm-ups cost."""

    def __init__(self, hours: float = 50.0, harshness: float = 1.0) -> None:
        self.hours = hours
        self.harshness = harshness
        self.asked: list[Settings] = []

    def __call__(self, settings: Settings, /) -> Outcome:
        self.asked.append(settings)
        scheme = Scheme.parse(settings.scheme)
        lost = 0.04 * self.harshness / scheme.r * (settings.warm_every_s / 60) ** 0.5
        lost *= (settings.backup_every_s / 900) ** 0.5 if settings.backup_every_s else 2.0
        lost *= (100 / settings.n_nodes) ** 0.3
        upkeep = settings.n_nodes * (1 / settings.warm_every_s + 3 / (settings.backup_every_s or 1e9))
        usd = self.hours * (
            upkeep * 1e-3 + scheme.overhead * 0.01 + settings.memory_mb * 1e-6 + settings.linger_s * 0.1
        )
        return Outcome(hit_ratio=BEST * (1 - lost), availability=1 - lost, cost_usd=usd)


def stage(formula: Formula | None = None, best_hit_ratio: float = BEST) -> Stage:
    formula = formula or Formula()
    return Stage(evaluate=formula, hours=formula.hours, best_hit_ratio=best_hit_ratio)


def plan(goal: Goal, budget: Budget | None = None) -> Plan:
    return search(SPACE, goal, arithmetic(), sample=stage(Formula(5.0)), whole=stage(), budget=budget)


# ---------------------------------------------------------------- the search


@pytest.mark.parametrize("availability", [0.0, 0.95, 0.98, 0.985, 0.99])
def test_it_finds_the_cheapest_that_does_with_a_fraction_of_the_simulations(availability: float) -> None:
    goal, formula = Goal(hit_ratio=0.5, availability=availability), Formula()
    best = min(SPACE.choices(), key=lambda settings: goal.rank(formula(settings)))
    n_choices = len(list(SPACE.choices()))
    found = plan(goal)
    assert found.choice is not None
    assert found.choice.outcome.cost_usd <= 1.02 * formula(best).cost_usd
    assert len(found.sampled) < n_choices / 3
    assert len(found.confirmed) <= 10


@pytest.mark.parametrize("harshness", [0.3, 2.0, 4.0])
def test_it_learns_how_far_the_sample_is_to_be_believed(harshness: float) -> None:
    goal, formula = Goal(hit_ratio=0.5, availability=0.97), Formula(harshness=harshness)
    best = min(SPACE.choices(), key=lambda settings: goal.rank(formula(settings)))
    found = search(SPACE, goal, arithmetic(), sample=stage(Formula(5.0)), whole=stage(formula))
    assert found.choice is not None
    assert found.choice.outcome.cost_usd <= 1.02 * formula(best).cost_usd
    assert len(found.confirmed) <= Budget().n_on_whole


def test_simulations_stay_within_the_budget() -> None:
    sample, whole = Formula(5.0), Formula()
    budget = Budget(n_on_sample=7, n_on_whole=3)
    goal = Goal(hit_ratio=0.5, availability=0.99)
    search(SPACE, goal, arithmetic(), sample=stage(sample), whole=stage(whole), budget=budget)
    assert len(sample.asked) == len(set(sample.asked)) == 7
    assert 1 <= len(whole.asked) == len(set(whole.asked)) <= 3


def test_the_same_question_gives_the_same_answer() -> None:
    goal = Goal(availability=0.98)
    assert plan_document(plan(goal), 50.0) == plan_document(plan(goal), 50.0)


def test_what_does_on_the_sample_alone_is_not_bought() -> None:
    class Worse(Formula):
        def __call__(self, settings: Settings, /) -> Outcome:
            found = super().__call__(settings)
            return found if settings.scheme == "rs:10+4" else Outcome(hit_ratio=0.1, availability=0.1, cost_usd=0.01)

    goal = Goal(hit_ratio=0.5, availability=0.9)
    found = search(SPACE, goal, arithmetic(), sample=stage(Formula(5.0)), whole=stage(Worse()),
                   budget=Budget(n_on_whole=60))  # fmt: skip
    assert found.choice is not None
    assert found.choice.settings.scheme == "rs:10+4"


def test_when_nothing_does_it_says_what_comes_closest() -> None:
    found = plan(Goal(hit_ratio=0.5, availability=1.0))
    assert found.choice is None
    assert found.closest is not None
    assert found.closest.outcome.availability == max(one.outcome.availability for one in found.confirmed)
    assert "misses availability by" in verdict(found, 50.0)[0]
    assert plan_document(found, 50.0)["is_met"] is False


def test_it_begins_with_what_is_in_use() -> None:
    sample = Formula(5.0)
    used = Settings(
        n_nodes=390, memory_mb=1500, scheme="rs:10+2", warm_every_s=60.0, backup_every_s=300.0, linger_s=0.1
    )
    search(SPACE, Goal(), arithmetic(), sample=stage(sample), whole=stage(), start=used)
    assert sample.asked[0] == SPACE.nearest(used)
    assert (sample.asked[0].n_nodes, sample.asked[0].scheme, sample.asked[0].memory_mb) == (400, "rs:10+2", 1024)


def test_each_simulation_is_told() -> None:
    told: list[tuple[str, int]] = []
    found = search(SPACE, Goal(), arithmetic(), sample=stage(Formula(5.0)), whole=stage(),
                   note=lambda kind, n, tried: told.append((kind, n)))  # fmt: skip
    assert told.count(("whole", 1)) == 1
    assert len(told) == len(found.sampled) + len(found.confirmed)


def test_what_is_too_small_is_not_simulated() -> None:
    tight = Space(n_nodes=(12, 400), memory_mb=(128,), scheme=("rs:10+2",), backup_every_s=(0.0,),
                  warm_every_s=(60.0,), linger_s=(0.008,))  # fmt: skip
    known, goal = arithmetic(), Goal(hit_ratio=0.85)
    small, large = tight.choices()
    assert known.hit_ratio_at_most(small) < 0.85 < known.hit_ratio_at_most(large)
    whole = Formula()
    found = search(tight, goal, known, sample=stage(Formula(5.0), 0.9), whole=stage(whole, 0.9))
    assert found.pruned.too_small == 1
    assert whole.asked == [large]


def test_what_costs_far_more_than_what_does_is_not_simulated() -> None:
    sample = Formula(5.0)
    budget = Budget(n_on_sample=100, cost_factor=1.1)
    found = search(SPACE, Goal(), arithmetic(), sample=stage(sample), whole=stage(), budget=budget)
    assert found.pruned.too_dear
    assert not found.pruned.too_dear & set(sample.asked[20:])


def test_a_hit_ratio_that_no_cache_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="an infinite cache 90"):
        plan(Goal(hit_ratio=0.95))


def test_the_goal_on_a_part_is_as_far_below_the_best_as_on_the_whole() -> None:
    goal = Goal(hit_ratio=0.55, availability=0.9).on(stage(best_hit_ratio=0.3), stage(best_hit_ratio=0.6))
    assert goal.hit_ratio == pytest.approx(0.25)
    assert goal.availability == 0.9


# ---------------------------------------------------------------- the frontier


def tried(usd: float, availability: float) -> Tried:
    outcome = Outcome(hit_ratio=0.5, availability=availability, cost_usd=usd)
    return Tried(settings=next(SPACE.choices()), outcome=outcome)


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    kept = [tried(1.0, 0.5), tried(2.0, 0.8), tried(4.0, 0.9)]
    beaten = [tried(3.0, 0.8), tried(2.5, 0.7), tried(1.0, 0.4)]
    assert pareto([*beaten, *reversed(kept)]) == kept
    assert pareto([]) == []


# ---------------------------------------------------------------- arithmetic


def lru_hit_ratio(trace: list[Request], capacity_bytes: int) -> float:
    held: OrderedDict[str, int] = OrderedDict()
    hits = 0
    for request in trace:
        hits += held.pop(request.key, None) is not None
        held[request.key] = request.size_bytes
        while sum(held.values()) > capacity_bytes:
            held.popitem(last=False)
    return hits / len(trace)


@pytest.mark.parametrize("n_objects", [0, 1, 3, 10, 25, 40])
def test_reuse_distances_give_the_hit_ratio_of_lru(n_objects: int) -> None:
    trace = requests(n=300, size_bytes=10)
    profile = profile_trace(trace)
    assert profile.hit_ratio(10 * n_objects, 10) == pytest.approx(lru_hit_ratio(trace, 10 * n_objects))


def test_a_profile_knows_the_trace() -> None:
    gets = [Request(timestamp_s=t, key=key, size_bytes=size) for t, key, size in (
        (0.0, "a", 5), (10.0, "b", 7), (20.0, "a", 5), (3600.0, "b", 9),
    )]  # fmt: skip
    put = Request(timestamp_s=30.0, key="c", size_bytes=100, method=Method.PUT)
    profile = profile_trace([*gets[:3], put, gets[3]])
    assert (profile.n_gets, profile.hours, profile.total_bytes, profile.best_hit_ratio) == (4, 1.0, 26, 0.5)
    assert profile.reuse_bytes.tolist() == [12, 14]
    assert profile.hit_ratio(10**9, 5) == 0.25  # objects of more than 5 bytes have no room
    assert profile_trace(gets, until_s=20.0).n_gets == 3


def test_a_profile_of_nothing_is_zero() -> None:
    nothing: TraceProfile = profile_trace([])
    assert (nothing.best_hit_ratio, nothing.hit_ratio(10, 10)) == (0.0, 0.0)
    assert Arithmetic(profile=nothing, rates=load_price_book("2026").function_rates()).usd(next(SPACE.choices())) == 0


def test_arithmetic_costs_rise_with_upkeep() -> None:
    known = arithmetic()
    one = SPACE.middle()
    assert known.usd(one) > 0
    for more in (
        replace(one, n_nodes=2 * one.n_nodes),
        replace(one, warm_every_s=one.warm_every_s / 2),
        replace(one, backup_every_s=300.0),
        replace(one, linger_s=2 * one.linger_s),
    ):
        assert known.usd(more) > known.usd(replace(one, backup_every_s=900.0))


# ---------------------------------------------------------------- what can be asked


@pytest.mark.parametrize(
    ("axis", "choices", "told"),
    [
        ("n_nodes", (), "nothing to choose"),
        ("memory_mb", (0,), "cannot be 0"),
        ("warm_every_s", (-1.0,), "cannot be -1"),
        ("n_nodes", (3,), "as many nodes"),
        ("scheme", ("rs:x",), "not a scheme"),
    ],
)
def test_spaces_that_cannot_be_are_refused(axis: str, choices: tuple[object, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Space(**{axis: choices})  # type: ignore[arg-type]


def test_goals_are_shares() -> None:
    with pytest.raises(ConfigError, match="hit_ratio"):
        Goal(hit_ratio=65.5)


def test_a_goal_takes_a_flattering_sample_into_account() -> None:
    goal, part, whole = Goal(hit_ratio=0.55, availability=0.96), stage(best_hit_ratio=0.3), stage(best_hit_ratio=0.6)
    there = Outcome(hit_ratio=0.29, availability=0.99, cost_usd=1.0)
    really = Outcome(hit_ratio=0.56, availability=0.92, cost_usd=9.0)
    corrected = goal.on_flattering(part, whole, there=there, really=really)
    assert corrected.hit_ratio == pytest.approx(0.3 - 0.05 / 4)
    assert corrected.availability == pytest.approx(1 - 0.04 / 8)
    lossless = Outcome(hit_ratio=0.6, availability=1.0, cost_usd=9.0)
    assert goal.on_flattering(part, whole, there=there, really=lossless).availability == pytest.approx(0.96)


def test_neighbours_differ_in_one_step() -> None:
    middle = SPACE.middle()
    for step in SPACE.neighbours(middle):
        differing = [name for name in SPACE.axes() if getattr(step, name) != getattr(middle, name)]
        assert len(differing) == 1


# ---------------------------------------------------------------- told


def test_a_plan_says_what_to_buy_and_its_margin() -> None:
    found = plan(Goal(hit_ratio=0.5, availability=0.97))
    assert found.choice is not None
    lines = verdict(found, 50.0)
    assert lines[0] == f"buy {found.choice.settings}"
    left = margin(found.goal, found.choice.outcome)
    assert left["availability"] == found.choice.outcome.availability - 0.97 >= 0
    document = plan_document(found, 50.0)
    assert document["choice"]["settings"]["n_nodes"] == found.choice.settings.n_nodes
    assert [entry["outcome"]["cost_usd"] for entry in document["frontier"]] == sorted(
        entry["outcome"]["cost_usd"] for entry in document["frontier"]
    )


def test_the_picture_has_labelled_axes_and_all_that_was_confirmed() -> None:
    found = plan(Goal(hit_ratio=0.5, availability=0.97))
    made = plan_figure(found, 50.0)
    assert made is not None
    (axes,) = made.axes
    assert "USD" in axes.get_xlabel()
    assert "availability" in axes.get_ylabel()
    drawn = np.concatenate([np.asarray(line.get_xdata(), dtype=float) for line in axes.lines])
    assert np.isin([one.outcome.cost_usd for one in found.confirmed], drawn).all()


# ---------------------------------------------------------------- configurations


def test_a_configuration_has_what_was_chosen_and_keeps_the_rest() -> None:
    base = Config.load(
        None,
        {"ring": {"shards": 1}, "read": {"hedge": "all"}, "availability": {"warm": "holding", "repair": "reads"}},
        environ={},
    )
    settings = Settings(
        n_nodes=200, memory_mb=2048, scheme="rs:10+3", warm_every_s=120.0, backup_every_s=900.0, linger_s=0.05
    )
    config = configured(base, settings)
    assert settings_in(config) == settings
    assert (config.read.hedge, config.availability.warm, config.availability.repair) == ("all", "holding", "reads")
    assert config.redundancy[:-1] == base.redundancy[:-1]


def test_never_warm_and_warm_again() -> None:
    base = Config.load(None, {"ring": {"shards": 1}}, environ={})
    never = configured(base, replace(settings_in(base), warm_every_s=0.0))
    assert never.availability.warm == "none"
    assert settings_in(never).warm_every_s == 0.0
    again = configured(never, replace(settings_in(never), warm_every_s=60.0))
    assert again.availability.warm == "all"


def test_a_choice_that_cannot_be_configured_is_refused() -> None:
    base = Config.load(None, {"ring": {"shards": 2}, "pool": {"nodes": 28}}, environ={})
    with pytest.raises(ConfigError, match="too few"):
        configured(base, replace(settings_in(base), n_nodes=14))


@pytest.mark.parametrize(
    ("interval_s", "place"), [(0.0, 0), (3600.0, 1), (120.0, -2), (1.0, -1)], ids=["never", "rare", "between", "often"]
)
def test_what_is_in_use_is_put_among_the_usual_choices(interval_s: float, place: int) -> None:
    tree = {"ring": {"shards": 1}, "availability": {"backup_interval_s": interval_s}, "pool": {"nodes": 123}}
    config = Config.load(None, tree, environ={})
    space = space_around(config, {"scheme": ("rs:10+2",)})
    assert space.backup_every_s[place] == interval_s
    assert space.backup_every_s[0] == 0.0
    assert list(space.n_nodes) == sorted({*Space().n_nodes, 123})
    assert space.scheme == ("rs:10+2",)


def test_choices_leave_each_shard_its_nodes_and_the_runtime_its_memory() -> None:
    config = Config.load(None, {"ring": {"shards": 10}, "pool": {"nodes": 200, "reserve_mb": 600}}, environ={})
    space = space_around(config, {})
    assert min(space.n_nodes) >= 10 * 14
    assert min(space.memory_mb) > 600
    with pytest.raises(ConfigError, match="nothing to choose from for n_nodes"):
        space_around(config, {"n_nodes": (100,)})
