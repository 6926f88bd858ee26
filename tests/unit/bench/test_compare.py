import msgspec
import pytest

from bench.compare.loads import Load, Paced, Result, lateness, merged
from bench.compare.report import Figures, report
from bench.compare.run import LIGHT, level, light
from bench.compare.source import TEXT_SIZE, Framing, Script
from bench.compare.systems import DIRECT, PIROPIRO


def test_a_script_survives_its_message():
    script = Script(12, pace=50, hold=3)
    assert Script.of(f'{{"content":"{script.message()}"}}'.encode()) == script


def test_a_chunk_is_as_long_as_its_framing_says():
    piece = Framing.chunked().delta % (7, 123)
    size, _, rest = piece.partition(b"\r\n")
    assert len(rest) == int(size, 16) + 2
    assert b"0000007 0000000000000000123" in rest
    assert len("0000007 0000000000000000123") == TEXT_SIZE


def test_light_load_is_so_many_chats_at_any_time_of_the_window():
    load = light(10.0)
    for moment in (2.05, 6.05, 11.95):
        present = sum(start <= moment < start + deltas / load.pace for start, deltas in load.starts)
        assert abs(present - LIGHT) <= 1  # they come at moments of chance


def test_all_chats_of_a_level_live_through_its_window_and_end_together():
    load = level(75, 5.0)
    ends = [start + deltas / load.pace for start, deltas in load.starts]
    assert max(start for start, _ in load.starts) < load.window[0]
    assert min(ends) > load.window[1]
    assert max(ends) - min(ends) < 0.03


def test_loads_survive_the_way_to_the_load_generator():
    load = level(3, 1.0)
    decoded = msgspec.json.decode(msgspec.json.encode(load), type=Load)
    assert isinstance(decoded, Paced)
    assert decoded == load


def test_cpu_is_the_servers_alone():
    result = Result(delivered=1000, cpu={"API": 0.2, "worker": 0.1, "upstream": 5.0, "load generator": 7.0})
    assert result.per_delta == pytest.approx(300)


def test_memory_is_the_growth_by_stream():
    result = Result(memory={0: {"API": 1024, "worker": 0}, 10: {"API": 11264, "worker": 10240}})
    assert (result.kib_per_stream(10), result.kib_per_stream(10, "API")) == (2, 1)
    assert result.kib_per_stream(20) is None


def test_the_table_shows_ratios_to_direct():
    figures = [
        Figures(name, "", burst=Result(seconds=1.0, delivered=deltas), levels=[Result(streams=20, on_time=1.0)])
        for name, deltas in ((DIRECT, 1000), (PIROPIRO, 5000))
    ]
    assert "| saturated, deltas/s | 1,000 | 5,000 (× 5.00) |" in report(figures, "", 50)


def test_what_went_wrong_is_reported():
    figures = [Figures(DIRECT, "", lights=[Result(faults=["delta 2 came where 1 was due"])])]
    assert "- direct: delta 2 came where 1 was due" in report(figures, "", 50)


def test_rounds_become_one_by_medians_and_sums():
    rounds = [
        Result(streams=20, seconds=1.0, delivered=1000, cpu={"API": 0.2}, p50=1.0),
        Result(streams=20, seconds=1.0, delivered=3000, cpu={"API": 0.2}, p50=3.0, unfinished=1),
    ]
    whole = merged(rounds)
    assert (whole.p50, whole.per_delta, whole.rate, whole.unfinished) == (2.0, pytest.approx(100), 2000, 1)


def test_the_servers_of_a_kind_are_counted_together():
    result = Result(delivered=1000, cpu={"API": 0.2, "API 2": 0.1, "worker": 0.5, "upstream": 9.0})
    assert result.of_server("API") == pytest.approx(300)


def test_the_upstreams_lateness_is_told_by_its_rhythm():
    assert lateness([1_000_000, 21_000_000, 46_000_000], 50) == [0.0, 0.0, 5.0]


def test_a_level_that_was_held_once_counts():
    levels = [Result(streams=n, on_time=on_time) for n, on_time in ((20, 1.0), (40, 0.5), (40, 1.0), (75, 0.1))]
    figures = Figures(DIRECT, "", levels=levels)
    assert figures.held is not None
    assert figures.held.streams == 40
    assert [own.streams for own in figures.climbed] == [20, 40, 75]
