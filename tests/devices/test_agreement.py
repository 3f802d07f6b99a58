"""What is said of processes that differ, and when they stop together."""

import random
import threading

import pytest

from finetune_jax.devices import agreement, cluster
from finetune_jax.devices.stop_agreement import StopAgreement

HOSTS = ("a", "b", "c")


def test_equal_facts_are_no_difference() -> None:
    assert agreement.difference_of([{"x": "1"}] * 3, HOSTS) == ""


def test_of_two_processes_the_first_is_taken_for_right() -> None:
    facts = [{"--seed": "0", "x": "1"}, {"--seed": "1", "x": "1"}]
    assert agreement.difference_of(facts, HOSTS) == (
        "the processes of this job differ: --seed is 1 on process 1 (host b) but 0 on process 0 (host a)"
    )


def test_of_several_processes_most_are_taken_for_right() -> None:
    facts = [{"x": "old"}, {"x": "new"}, {"x": "new"}]
    assert "x is old on process 0 (host a) but new on processes 1, 2" in agreement.difference_of(facts, HOSTS)


def test_a_fact_that_a_process_does_not_know_is_a_difference() -> None:
    assert "--new is absent on process 1 (host b)" in agreement.difference_of([{"--new": "1"}, {}], HOSTS)


def test_only_the_first_of_many_differences_are_written_out() -> None:
    facts = [{f"--f{n}": str(host) for n in range(9)} for host in range(2)]
    text = agreement.difference_of(facts, HOSTS)
    assert "--f2 is" in text
    assert "--f3" not in text
    assert text.endswith("; 6 more differences")


def test_a_single_process_agrees_with_itself() -> None:
    assert cluster.active() is None
    agreement.agree({"x": 1}, "do something")


def test_the_code_of_the_package_is_part_of_what_is_compared() -> None:
    facts = agreement.code()
    assert len(facts["digest of finetune_jax's code"]) == 12
    assert facts == agreement.code()


@pytest.mark.parametrize("seed", range(5))
def test_loops_that_ask_at_their_own_pace_stop_at_the_same_question(seed: int) -> None:
    pace = random.Random(seed)
    processes = [StopAgreement() for _ in range(3)]
    stopped: dict[int, int] = {}
    in_the_middle = threading.Barrier(4)

    def loop(number: int, pauses: list[float]) -> None:
        for question in range(1, 200):
            if question == 20 + 7 * number:
                in_the_middle.wait()
            threading.Event().wait(pauses[question])
            if processes[number].ask():
                stopped[number] = question
                return

    threads = [
        threading.Thread(target=loop, args=(number, [pace.random() / 500 for _ in range(200)]))
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    in_the_middle.wait()
    counts = [process.hold() for process in processes]
    assert None not in counts
    for process in processes:
        process.settle([count for count in counts if count is not None])
    for thread in threads:
        thread.join(20)
    assert stopped == dict.fromkeys(range(3), max(count or 0 for count in counts) + 1)
    assert all(process.answered for process in processes)


def test_where_nobody_has_asked_there_is_nothing_to_save() -> None:
    process = StopAgreement()
    assert process.hold() is None
    process.settle([0])
    trained = StopAgreement()
    trained.ask()
    trained.loop_ended()
    assert trained.hold() is None
