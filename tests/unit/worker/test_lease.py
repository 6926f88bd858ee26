from worker.lease import Watch

LEASE = 3


def look_every_second(watch, beats, start, end):
    return [watch.look(beats, now=now) for now in range(start, end + 1)]


def test_a_beat_that_stays_the_same_for_a_lease_is_a_dead_workers():
    watch = Watch(LEASE)
    assert look_every_second(watch, {"a": b"1", "b": b"1"}, 0, 2) == [[], [], []]
    assert look_every_second(watch, {"a": b"1", "b": b"2"}, 3, 4) == [[], ["a"]]
    assert look_every_second(watch, {"a": b"2", "b": b"2"}, 5, 6) == [[], []]


def test_silence_counts_only_while_we_looked():
    watch = Watch(LEASE)
    look_every_second(watch, {"a": b"1"}, 0, 2)
    watch.blink()
    assert look_every_second(watch, {"a": b"1"}, 3, 7) == [[], [], [], [], ["a"]]


def test_a_gap_between_two_looks_gives_everybody_a_whole_lease():
    watch = Watch(LEASE)
    look_every_second(watch, {"a": b"1"}, 0, 2)
    assert look_every_second(watch, {"a": b"1"}, 12, 16) == [[], [], [], [], ["a"]]


def test_a_worker_that_left_the_list_is_forgotten():
    watch = Watch(LEASE)
    look_every_second(watch, {"a": b"1"}, 0, 2)
    watch.look({}, now=3)
    assert look_every_second(watch, {"a": b"1"}, 4, 6) == [[], [], []]
