import pytest

from bench import overload, storm
from bench.compare import prose
from bench.compare.load import phase, redis_use, silence
from bench.compare.loads import Phase, RedisUse, Result
from bench.compare.received import Answer
from bench.compare.report import counted
from bench.growth import FULL, Growth, fullest, report, unit_costs

MS = 1_000_000


def test_prose_needs_no_escaping_and_is_short():
    tokens = prose.answer(7, 5000)
    assert {len(token) for token in tokens} <= {1, 2, 3, 4, 5}
    assert 3.5 < sum(map(len, tokens)) / len(tokens) < 5
    assert not any(byte in b'"\\' or not 32 <= byte < 127 for token in tokens for byte in token)
    assert prose.answer(7, 500) == tokens[:500] != prose.answer(8, 500)


def test_a_phase_has_what_was_written_in_it():
    answer = Answer(sent=[0, 10 * MS, 20 * MS], arrived=[5 * MS, 11 * MS, 99 * MS])
    assert phase([answer], 5 * MS, 15 * MS) == Phase(0.01, 1, 1.0, 1.0)


def test_silence_counts_from_the_request():
    assert silence(0, [30 * MS, 40 * MS]) == 30
    assert silence(0, [30 * MS, 90 * MS]) == 60


def test_redis_use_is_a_difference():
    before = {"cmdstat_xadd": {"calls": 5}, "total_net_input_bytes": 10, "total_net_output_bytes": 20}
    after = {
        "cmdstat_xadd": {"calls": 8},
        "cmdstat_info": {"calls": 9},
        "cmdstat_get": {"calls": 2},
        "total_net_input_bytes": 110,
        "total_net_output_bytes": 70,
        "connected_clients": 4,
    }
    assert redis_use(before, after) == RedisUse(100, 50, {"xadd": 3, "get": 2}, 3)


def test_overload_finds_what_went_wrong():
    fine = Result(refused=3, positions=[[2, 1], [100]])
    assert overload.found(fine) == []
    assert overload.found(Result(refused=3, positions=[[101]], unfinished=1)) == [
        "1 accepted chats did not end in time",
        "somebody waited at place 101 of a queue of 100",
    ]
    assert len(overload.found(Result())) == 2


def test_overload_is_reported():
    phases = {"within capacity": Phase(4.0, 4000, 1.0, 5.0), "overload": Phase(8.0, 8000, 2.0, 7.0)}
    result = Result(refused=2, retry_after=[5, 5], positions=[[3, 2], [7]], phases=phases)
    text = overload.report(result, overload.FULL, "", [])
    assert "| overload | 8.0 | 8,000 | 2.0 | 7.0 |" in text
    assert "446 accepted, 2 answered 429 with a Retry-After of 5 s" in text
    assert "2 readers were told their place in the queue, 3 times in all; the first place told was 7 at most" in text


@pytest.mark.parametrize(("p99", "verdict"), [(99.0, "met"), (101.0, "**missed**")])
def test_the_storm_is_judged(p99, verdict):
    result = Result(phases={"storm": Phase(1.0, 1000, 3.0, p99)}, caught_up=0.5)
    assert f"| p99 of the live readers in the storm, ms | {p99:.1f} | ≤ 100 | {verdict} |" in storm.report(
        result, storm.FULL, ""
    )


def growth():
    use = RedisUse(received=100_000, sent=50_000, calls={"xadd": 1000}, connections=4)
    chats = Result(
        streams=200,
        seconds=1.0,
        delivered=1000,
        cpu={"API": 0.02, "worker": 0.03, "Redis": 0.005},
        memory={200: {"API": 1024, "worker": 1024, "Redis": 1024}},
        redis=use,
        on_time=1.0,
    )
    kept = {"running": {"log": 30.0, "keys in all": 40.0}, "5 s after the end": {"keys in all": 10.0}}
    memory = {0: {"API": 0, "worker": 0, "Redis": 0}, 1000: {"API": 20_480_000, "worker": 10_240_000, "Redis": 0}}
    return Growth(
        levels=[chats, Result(streams=400, on_time=0.1)],
        typical=Result(delivered=1000, kept=kept, redis=use),
        short=Result(delivered=10, kept=kept, redis=use),
        idle=Result(streams=1000, memory=memory),
    )


def test_unit_costs_come_from_the_measurements():
    costs = unit_costs(growth(), 200)
    assert (costs.api_cpu, costs.worker_cpu, costs.redis_cpu) == pytest.approx((20, 30, 5))
    assert (costs.redis_in, costs.redis_out, costs.kept_running, costs.kept_ended) == (100, 50, 40, 10)
    assert (costs.api_stream, costs.worker_chat, costs.redis_chat) == (20_480, 10_240, 0)


def test_growth_is_reported_with_what_it_means_on_paper():
    text = report(growth(), "", FULL)
    assert "| API: µs per delivery | 20.0 |" in text
    assert "| chats at once | 100 | 10,000 | 1,000,000 |" in text
    assert "1. one worker process: CPU: 400 chats" in text


def test_the_fullest_process_is_a_server():
    result = Result(seconds=2.0, cpu={"API": 0.5, "worker": 1.0, "upstream": 1.9, "load generator": 1.9})
    assert fullest(result) == "worker 50%"
    assert fullest(Result()) == "–"


def test_what_went_wrong_often_is_said_once():
    assert counted(["a", "b", "a"]) == "- a (2 times)\n- b"
