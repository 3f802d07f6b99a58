"""What malloc does with freed memory, seen from a process of its own, and when old garbage is searched for."""

import ctypes.util
import gc
import os
import platform
import subprocess
import sys
import textwrap
import weakref
from unittest import mock

import pytest

from finetune_jax.devices import host_memory

_TOUCH = """
import ctypes, resource, threading
from finetune_jax.devices import host_memory

SIZE = 256 << 20
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def touch():
    block = libc.malloc(SIZE)
    ctypes.memset(block, 1, SIZE)
    libc.free(block)

def touch_in_a_thread():
    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()

{before}
touch()
first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    touch()
    touch_in_a_thread()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)
"""


def _faults_of_touching_again(before: str) -> int:
    code = textwrap.dedent(_TOUCH.replace("{before}", before))
    # What launch.sh sets gives the process huge pages already, or another malloc.
    ours = ("GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", code]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_large_blocks_that_were_freed_are_not_faulted_in_again():
    pages = 6 * (256 << 20) // 4096
    # Huge pages, where the system gives them to everyone, need one fault for 512 pages.
    assert _faults_of_touching_again("") >= pages // 512
    assert _faults_of_touching_again("assert host_memory.keep_freed_memory()") < pages // 2048


@pytest.mark.parametrize(("system", "library"), [("Darwin", ""), ("Linux", "musl")])
def test_other_systems_are_left_as_they_are(system, library, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "libc_ver", lambda: (library, ""))
    assert host_memory.keep_freed_memory() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_a_process_that_may_not_have_the_addresses_goes_on_without_huge_pages():
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))"
    code = f"{limit}; from finetune_jax.devices import host_memory as m; m.keep_freed_memory(); bytearray(100 << 20)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("overcommit", "expected"), [("0\n", 1), ("1\n", 1), ("2\n", 0)])
def test_addresses_are_not_reserved_where_they_count_as_memory(overcommit, expected, tmp_path, monkeypatch):
    setting = tmp_path / "overcommit_memory"
    setting.write_text(overcommit)
    monkeypatch.setattr(host_memory, "_OVERCOMMIT", setting)
    libc = mock.Mock(malloc=mock.Mock(return_value=1 << 30))
    host_memory._lay_out_huge_pages(libc)
    assert libc.malloc.call_count == libc.madvise.call_count == libc.free.call_count == expected


def _jemalloc() -> str | None:
    return ctypes.util.find_library("jemalloc")


@pytest.mark.skipif(_jemalloc() is None, reason="the system has no jemalloc")
def test_jemalloc_is_left_as_it_is_and_gives_back_what_is_unused():
    code = """
import ctypes
from finetune_jax.devices import host_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
assert host_memory.keep_freed_memory() is False
block = libc.malloc(256 << 20)
ctypes.memset(block, 1, 256 << 20)
libc.free(block)
kept = resident()
host_memory.give_back_unused()
print((kept - resident()) >> 20)
"""
    environment = os.environ | {
        "LD_PRELOAD": _jemalloc(),
        "MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0",
    }
    environment.pop("GLIBC_TUNABLES", None)
    command = [sys.executable, "-c", code]
    freed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert int(freed) > 200


class Thing:
    """Garbage that only a search finds, once it points at itself."""

    def __init__(self):
        self.own = self


def test_garbage_from_before_is_found_after_and_new_garbage_meanwhile():
    gc.collect()
    before = Thing()
    old = weakref.ref(before)
    with host_memory.without_garbage_collection():
        del before
        new = weakref.ref(Thing())
        gc.collect()
        assert old() is not None
        assert new() is None
    gc.collect()
    assert old() is None


def test_old_garbage_is_searched_for_between_passes_once_a_minute(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(host_memory, "SECONDS_BETWEEN_SEARCHES", 60.0)
    monkeypatch.setattr(host_memory, "_searched", now)
    monkeypatch.setattr(host_memory.time, "monotonic", lambda: now)
    with host_memory.without_garbage_collection():
        thing = Thing()
        found = weakref.ref(thing)
    for seconds, is_there in ((30, True), (40, False)):
        thing = None
        now += seconds
        with host_memory.without_garbage_collection():
            assert (found() is not None) == is_there
