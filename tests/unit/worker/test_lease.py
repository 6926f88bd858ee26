from worker.lease import Watch


def test_a_beat_that_stays_the_same_for_a_lease_is_a_dead_workers():
    watch = Watch(3)
    assert watch.look({"a": b"1", "b": b"1"}, now=0) == []
    assert watch.look({"a": b"1", "b": b"2"}, now=2) == []
    assert watch.look({"a": b"1", "b": b"2"}, now=3.5) == ["a"]
    assert watch.look({"a": b"2", "b": b"3"}, now=4) == []


def test_silence_counts_only_while_we_looked():
    watch = Watch(3)
    watch.look({"a": b"1"}, now=0)
    watch.blink()
    assert watch.look({"a": b"1"}, now=10) == []
    assert watch.look({"a": b"1"}, now=12) == []
    assert watch.look({"a": b"1"}, now=13.5) == ["a"]


def test_a_worker_that_left_the_list_is_forgotten():
    watch = Watch(3)
    watch.look({"a": b"1"}, now=0)
    watch.look({}, now=1)
    assert watch.look({"a": b"1"}, now=10) == []
