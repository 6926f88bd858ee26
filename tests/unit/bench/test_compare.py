import msgspec
import pytest

from bench.compare.load import Load, Paced, Result
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
        assert sum(start <= moment < start + deltas / load.pace for start, deltas in load.starts) == LIGHT


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
    figures = [Figures(DIRECT, "", light=Result(faults=["delta 2 came where 1 was due"]))]
    assert "- direct: delta 2 came where 1 was due" in report(figures, "", 50)
