import pytest

from bench.estimate import Machine, Traffic, UnitCosts, estimate, ladder, lines

COSTS = UnitCosts(
    api_cpu=20,
    worker_cpu=30,
    redis_cpu=5,
    redis_in=100,
    redis_out=50,
    kept_running=40,
    kept_ended=10,
    api_stream=20_000,
    worker_chat=10_000,
    redis_chat=2_000,
)
TRAFFIC = Traffic(pace=50, deltas=500, readers=1, retention=3600)
MACHINE = Machine(filled=0.5, redis_memory=10e9, redis_network=1e9)


def test_each_formula():
    needs = estimate(10_000, COSTS, TRAFFIC, MACHINE)
    assert (needs.api_cores, needs.worker_cores, needs.redis_cores) == pytest.approx((10, 15, 2.5))
    assert (needs.api_processes, needs.worker_processes) == (20, 30)
    assert needs.redis_memory == pytest.approx(10_000 * (250 * 40 + 2_000) + 500_000 * 3600 * 10)
    assert needs.redis_network == pytest.approx(50e6)
    assert needs.redis_by == {"CPU": 5, "memory": 2, "network": 1}
    assert (needs.cells, needs.redis_bound) == (5, "CPU")


def test_more_readers_cost_the_api_alone():
    one, two = (estimate(1000, COSTS, Traffic(readers=readers), MACHINE) for readers in (1, 2))
    assert two.api_cores == 2 * one.api_cores
    assert two.api_memory == 2 * one.api_memory
    assert (two.worker_cores, two.redis_cores) == (one.worker_cores, one.redis_cores)


def test_what_is_full_first_comes_first():
    steps = ladder(COSTS, TRAFFIC, MACHINE)
    assert [name for name, _ in steps[:2]] == ["one worker process: CPU", "one API process: CPU"]
    assert dict(steps)["one worker process: CPU"] == pytest.approx(0.5 / (50 * 30e-6))
    assert [chats for _, chats in steps] == sorted(chats for _, chats in steps)


def test_a_step_of_the_ladder_is_where_the_estimate_needs_a_second_one():
    for name, chats in ladder(COSTS, TRAFFIC, MACHINE):
        below, above = (estimate(round(chats * by), COSTS, TRAFFIC, MACHINE) for by in (0.99, 1.01))
        what = name.rpartition(": ")[2]
        find = {"one API process": "api_processes", "one worker process": "worker_processes"}.get(
            name.partition(":")[0]
        )
        counts = [getattr(e, find) if find else e.redis_by[what] for e in (below, above)]
        assert counts == [1, 2]


def test_every_line_has_a_cell_for_every_size():
    assert {len(line) for line in lines(COSTS, TRAFFIC, MACHINE, (100, 10_000))} == {3}
