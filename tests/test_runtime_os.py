"""Compiled functions and the operating system: fork, threads, Ctrl-C, the cache directory.

Most of it happens in processes of its own, which print what they found.
"""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import staticgraph as sg

ops = sg.ops

#: a network large enough to run on two threads, its gradient, and what it gives
COMMON = """
import hashlib, os, sys, threading, time
import numpy as np
import staticgraph as sg

def network(width=96):
    x, w = sg.input("x", (700, width)), sg.input("w", (width, width))
    h = sg.ops.softmax(sg.ops.gelu(x @ w), axis=1)
    loss = (h * h).sum() + x.sum(axis=0).max()
    return sg.compile([h, loss, *sg.grad(loss, [x, w])], [x, w])

def arrays(width=96):
    rng = np.random.default_rng(0)
    return rng.standard_normal((700, width), "f"), rng.standard_normal((width, width), "f")

def digest(results):
    return hashlib.sha256(b"".join(a.tobytes() for a in results)).hexdigest()
"""


def command(script: str) -> list[str]:
    return [sys.executable, "-P", "-c", COMMON + textwrap.dedent(script)]


def environment(**more: object) -> dict[str, str]:
    return {**os.environ, **{k: str(v) for k, v in more.items()}}


def run(script: str, *, timeout: float = 240, **env: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a new process; its own failure is the test's."""
    done = subprocess.run(
        command(script),
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


# ---------------------------------------------------------------------------- fork


@pytest.mark.parametrize("ran", [False, True], ids=["compiled", "ran on two threads"])
def test_a_forked_child_computes_the_same(ran):
    """Before or after the parent has started its worker threads; the child has its own."""
    script = f"""
    fn, given = network(), arrays()
    if {ran}:
        with sg.threads(2):
            fn(*given)
    children = []
    for k in range(3):
        child = os.fork()
        if child == 0:
            with sg.threads(1 + k % 2):
                same = {{digest(fn(*given)) for _ in range(5)}}
            other = sg.compile(sg.ops.sin(sg.input("x", (40 + k,))) * 2.0)
            ok = np.allclose(other(np.ones(40 + k, "f")), 2 * np.sin(1.0))
            os.write(1, f"{{' '.join(same)}} {{ok}}\\n".encode())
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    print(digest(fn(*given)), True)
    """
    lines = run(script).stdout.splitlines()
    assert len(lines) == 4
    assert len(set(lines)) == 1
    assert lines[0].endswith(" True")


def test_multiprocessing_by_fork():
    script = """
    import multiprocessing

    fn, (x, w) = network(), arrays()

    def work(k):
        return digest(fn(x + np.float32(k % 2), w))

    with sg.threads(2):
        wanted = [work(k) for k in range(2)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        got = pool.map(work, range(8))
    print(got == wanted * 4)
    """
    assert run(script).stdout == "True\n"


def test_fork_while_other_threads_compute():
    """Locks that another thread of the parent holds are no one's in the child."""
    script = """
    import warnings
    warnings.simplefilter("ignore")
    fn, given = network(), arrays()
    v = sg.variable(np.zeros(2000, "f"))
    count = sg.compile(None, updates={v: v + 1.0})
    over = threading.Event()

    def busy():
        while not over.is_set():
            fn(*given)
            sg.compile(sg.ops.exp(sg.input("x", (np.random.randint(1, 99),))))

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for t in threads:
        t.start()
    wanted = digest(fn(*given))
    for k in range(8):
        time.sleep(0.02)
        child = os.fork()
        if child == 0:
            good = digest(fn(*given)) == wanted
            sg.compile(sg.ops.sin(sg.input("x", (100 + k,))))
            os._exit(0 if good else 1)
        assert os.waitpid(child, 0)[1] == 0
    over.set()
    for t in threads:
        t.join()
    print("ok")
    """
    assert run(script).stdout == "ok\n"


# ---------------------------------------------------------------------------- threads


def test_eight_threads_call_and_compile_at_once(rng):
    """The same function, functions of their own, and one that all of them compile."""
    x, w = sg.input("x", (300, 64)), sg.input("w", (64, 64))
    h = ops.tanh(x @ w)
    shared = sg.compile([h, *sg.grad((h * h).sum(), [x, w])], [x, w])
    a, b = rng.standard_normal((300, 64), "f"), rng.standard_normal((64, 64), "f")
    wanted = shared(a, b)
    start = threading.Barrier(8)

    def work(k: int) -> bool:
        start.wait()
        own = sg.compile(ops.sin(sg.input("y", (50 + k,))) + float(k))
        same = sg.compile(ops.cos(sg.input("y", (77,))) * 3.0)
        good = np.allclose(own(np.zeros(50 + k, "f")), k)
        good &= np.allclose(same(np.zeros(77, "f")), 3.0)
        with sg.threads(1 + k % 2):
            for _ in range(15):
                good &= all(map(np.array_equal, shared(a, b), wanted))
        return bool(good)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_updates_of_several_variables_from_eight_threads():
    """Each step sees and leaves all of them in one state."""
    u = sg.variable(np.zeros(20_000, "f"), name="u")
    v = sg.variable(np.zeros(20_000, "f"), name="v")
    step = sg.compile((u - v * 2.0).max(), updates={u: u + 2.0, v: v + 1.0})
    look = sg.compile((u - v * 2.0).max())
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda k: float((look if k % 2 else step)()), range(400)))
    assert set(seen) == {0.0}
    np.testing.assert_array_equal(u.value, 400)
    np.testing.assert_array_equal(v.value, 200)


# ---------------------------------------------------------------------------- Ctrl-C

INTERRUPTED = """
rng = np.random.default_rng(0)
size = 1400  # a step takes several times the 50 ms after which signals are looked for
x = sg.input("x", (size, size))
weights = [sg.variable(np.zeros((size, size), "f"), name=f"w{k}") for k in range(4)]
small = sg.variable(np.zeros((), "f"), name="count")
updates = {small: small + 1.0}
h = x
for w in weights:
    h = sg.ops.tanh(h @ x * 0.01)
    # One more, whatever h is: each update waits for work of its own.
    updates[w] = w + sg.ops.minimum(sg.ops.abs(h) + 2.0, 1.0)
step = sg.compile(None, updates=updates)
a = rng.standard_normal((size, size), "f")
step(a)
print("ready", flush=True)
while True:
    try:
        while True:
            step(a)
    except KeyboardInterrupt:
        values = {float(v) for w in weights for v in (w.value.min(), w.value.max())}
        values.add(float(small.value))
        print(*values, flush=True)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_leaves_all_variables_in_one_state(threads, rng):
    """Five variables count the steps; whenever the interrupt comes, they agree."""
    child = subprocess.Popen(
        command(INTERRUPTED),
        env=environment(NUMBA_NUM_THREADS=threads),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready\n"
        counts = []
        for _ in range(8):
            time.sleep(rng.uniform(0.0, 0.4))
            child.send_signal(signal.SIGINT)
            counts.append([float(v) for v in child.stdout.readline().split()])
        assert all(len(found) == 1 for found in counts), counts
        assert counts == sorted(counts)
        assert counts[-1] > counts[0]
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


# ---------------------------------------------------------------------------- the cache directory

REPORT = """
fn = network()
origins = sorted({k.origin for k in fn.kernels})
print(digest(fn(*arrays())), ",".join(origins), "numba" in sys.modules)
"""


def test_a_new_process_starts_from_the_disk(tmp_path):
    """The second one neither compiles nor imports a compiler, and gives the same bits."""
    cache = tmp_path / "not" / "there" / "yet"
    first = run(REPORT, STATICGRAPH_CACHE_DIR=cache).stdout.split()
    second = run(REPORT, STATICGRAPH_CACHE_DIR=cache).stdout.split()
    assert first[1:] == ["absent", "True"]
    assert second == [first[0], "disk", "False"]


def test_importing_imports_no_compiler():
    script = """
    heavy = {"numba", "scipy", "torch", "jax", "hypothesis"}
    print(sorted(heavy & set(sys.modules)))
    """
    assert run(script).stdout == "[]\n"


def test_a_directory_that_takes_no_files(tmp_path, monkeypatch):
    """Works, and says so once."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    done = run(REPORT, STATICGRAPH_CACHE_DIR=blocker / "cache")
    assert done.stdout.split()[1:] == ["absent", "True"]
    assert done.stderr.count("cannot be written") == 1
    assert "STATICGRAPH_CACHE_DIR" in done.stderr


def test_processes_that_race_on_a_cold_cache(tmp_path):
    cache = tmp_path / "cache"
    children = [
        subprocess.Popen(
            command(REPORT),
            env=environment(STATICGRAPH_CACHE_DIR=cache),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [child.communicate(timeout=240) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    digests = {out.split()[0] for out, _ in outputs}
    assert len(digests) == 1
    assert run(REPORT, STATICGRAPH_CACHE_DIR=cache).stdout.split() == [*digests, "disk", "False"]
    assert not list(Path(cache).rglob("*.tmp"))


@pytest.mark.parametrize("damage", ["cut", "emptied", "other bytes"])
def test_torn_files_are_made_anew(tmp_path, damage):
    """What a full disk or a crash left behind is compiled again."""
    cache = tmp_path / "cache"
    first = run(REPORT, STATICGRAPH_CACHE_DIR=cache).stdout.split()
    files = list(cache.rglob("*.sgk"))
    assert files
    for path in files:
        content = path.read_bytes()
        changed = {"cut": content[: len(content) // 2], "emptied": b""}
        path.write_bytes(changed.get(damage, content[:40] + b"\x00" * 16 + content[56:]))
    assert run(REPORT, STATICGRAPH_CACHE_DIR=cache).stdout.split() == [first[0], "damaged", "True"]
    assert run(REPORT, STATICGRAPH_CACHE_DIR=cache).stdout.split() == [first[0], "disk", "False"]
