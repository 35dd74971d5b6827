"""Running programs: every opcode, threads, concurrency, fork, Ctrl-C, and the thread budget."""

import concurrent.futures
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import timeit
from pathlib import Path

import numpy as np
import pytest

from staticgraph.codegen import launchwords as w
from staticgraph.errors import InternalError
from staticgraph.kernels import KernelSource, compile_kernels
from staticgraph.launch import Frame, Program
from staticgraph.threads import default_threads, get_threads, layer, threads

HEAD = "from staticgraph.codegen.vector import *\nfrom staticgraph.codegen.lowlevel import *\n"

# Each tile adds its share; the order inside a tile is fixed, so bits cannot depend on threads.
SUM_OF_SINES = """
def k(lo, hi, bufs, scratch):
    x = ptr(bufs, 0)
    parts = ptr(bufs, 1)
    for t in range(lo, hi):
        total = splat_f32(0.0)
        for i in range(16):
            v = vld_f32(x, t * 256 + i * 16)
            total = total + v / (v * v + splat_f32(0.3))
        st_f32(parts, t, lane0_f32(hsum(total)))
"""
ADD_PARTS = """
def k(lo, hi, bufs, scratch):
    parts = ptr(bufs, 0)
    total = ld_f32(parts, 0)
    for i in range(1, ld_i64(ptr(bufs, 1), 0)):
        total = total + ld_f32(parts, i)
    st_f32(ptr(bufs, 2), 0, total)
"""
INCREMENT = """
def k(lo, hi, bufs, scratch):
    for t in range(lo, hi):
        st_i64(ptr(bufs, 0), t, ld_i64(ptr(bufs, 0), t) + 1)
"""
ADD = """
def k(lo, hi, bufs, scratch):
    for t in range(lo, hi):
        st_i64(ptr(bufs, 0), t, ld_i64(ptr(bufs, 0), t) + ld_i64(ptr(bufs, 1), t))
"""
LESS = """
def k(lo, hi, bufs, scratch):
    st_b1(ptr(bufs, 2), 0, ld_i64(ptr(bufs, 0), 0) < ld_i64(ptr(bufs, 1), 0))
"""
SPIN = """
def k(lo, hi, bufs, scratch):
    for t in range(lo, hi):
        end = now() + ld_i64(ptr(bufs, 0), 0)
        while now() < end:
            pause()
        atomic_add(ptr(bufs, 1), 0, 1)
"""
# Writes to its scratch, lets others run, and reads back what must still be its own.
SCRATCH = """
def k(lo, hi, bufs, scratch):
    for t in range(lo, hi):
        for i in range(64):
            st_i64(scratch, i, t * 64 + i)
        yield_core()
        for i in range(64):
            st_i64(ptr(bufs, 0), t * 64 + i, ld_i64(scratch, i))
"""
HALVE = """
def k(lo, hi, bufs, scratch):
    for t in range(lo, hi):
        vst_f32(ptr(bufs, 0), t * 16, vld_f32(ptr(bufs, 0), t * 16) * splat_f32(0.5))
"""
FLUSH_DENORMALS = """
def k(mode):
    return set_float_mode(mode)
"""


def address(text, **options):
    return compile_kernels([KernelSource("test", HEAD + text, **options)])[0].address


def step(opcode, a=0, b=0, c=0, d=0):
    return [opcode, a, b, c, d, 0, 0, 0]


def kernel(text, tiles=1, first=0, parallel=0):
    return step(w.KERNEL, address(text), tiles, first, parallel)


class Call:
    """A program over arrays, ready to run; operands are arrays, (array, byte offset), numbers."""

    def __init__(self, steps, operands, **options):
        operands = [o if isinstance(o, tuple) else (o, 0) for o in operands]
        self.arrays = list({id(a): a for a, _ in operands if isinstance(a, np.ndarray)}.values())
        place = {id(a): i for i, a in enumerate(self.arrays)}
        self.program = Program(
            np.array(steps),
            np.array([place.get(id(a), -1) for a, _ in operands]),
            np.array([o if isinstance(a, np.ndarray) else a for a, o in operands]),
            bases=len(self.arrays),
            **options,
        )
        self.frame = Frame(self.program)
        for i, array in enumerate(self.arrays):
            self.frame.bases[i] = array.ctypes.data

    def run(self):
        return self.frame.run()


def words(*values):
    return np.array(values, np.int64)


# -- opcodes --------------------------------------------------------------------------------------
def test_kernels_run_in_order_with_their_own_operands():
    x, y = np.arange(20), np.full(20, 100)
    call = Call([kernel(INCREMENT, 20, 0), kernel(ADD, 20, 1), kernel(INCREMENT, 3, 1)], [x, y, x])
    assert call.run() == w.DONE
    np.testing.assert_array_equal(x, np.arange(20) + 1)
    expected = np.arange(20) + 101
    expected[:3] += 1
    np.testing.assert_array_equal(y, expected)


def test_offsets_select_parts_of_a_buffer():
    x = np.zeros(8, np.int64)
    Call([kernel(INCREMENT, 2, 0), kernel(INCREMENT, 3, 1)], [(x, 8), (x, 40)]).run()
    np.testing.assert_array_equal(x, [0, 1, 1, 0, 0, 1, 1, 1])


def test_bases_may_change_between_runs():
    x, y = words(0), words(0)
    call = Call([kernel(INCREMENT)], [x])
    call.run()
    call.frame.bases[0] = y.ctypes.data
    call.run()
    call.run()
    assert (x[0], y[0]) == (1, 2)


def test_empty_program_and_kernel_without_tiles():
    x = words(7)
    assert Call(np.zeros((0, 8)), []).run() == w.DONE
    assert Call([kernel(INCREMENT, 0), kernel(INCREMENT, 0, parallel=1)], [x]).run() == w.DONE
    assert x[0] == 7


@pytest.mark.parametrize(("flag", "expected"), [(1, (1, 0)), (0, (0, 1))])
def test_only_the_branch_taken_runs(flag, expected):
    pred, then, other = np.array([flag], np.bool_), words(0), words(0)
    call = Call(
        [
            step(w.JUMP_IF_FALSE, 0, 3),
            kernel(INCREMENT, 1, 1),
            step(w.JUMP, 0, 4),
            kernel(INCREMENT, 1, 2),
        ],
        [pred, then, other],
    )
    assert call.run() == w.DONE
    assert (then[0], other[0]) == expected


def test_while_loop_by_jumps():
    count, limit, go = words(0), words(1000), np.array([False])
    call = Call(
        [
            kernel(LESS, 1, 0),
            step(w.JUMP_IF_FALSE, 2, 4),
            kernel(INCREMENT, 1, 0),
            step(w.JUMP, 0, 0),
        ],
        [count, limit, go],
    )
    assert call.run() == w.DONE
    assert count[0] == 1000


def test_nested_loops_with_moving_operands():
    """out[i] += x[j] for all i < 3, j < 4: a scan's way through its inputs."""
    x, out = np.array([1, 10, 100, 1000]), np.zeros(3, np.int64)
    steps = [
        kernel(ADD, 1, 0),
        step(w.ADVANCE, 1, 8),
        step(w.LOOP, 2, 0),
        step(w.RESET, 1, 2),
        step(w.ADVANCE, 0, 8),
        step(w.LOOP, 3, 0),
    ]
    call = Call(steps, [out, x, 4, 3])
    for repeat in (1, 2):
        assert call.run() == w.DONE
        np.testing.assert_array_equal(out, np.full(3, 1111 * repeat))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("size", [0, 1, 1000, (1 << 20) + 3, (3 << 20) + 5])
def test_copy_and_zero(rng, size, count):
    x = rng.integers(0, 255, size + 2).astype(np.uint8)
    y, z = np.ones_like(x), np.ones_like(x)
    call = Call([step(w.COPY, 0, 1, size), step(w.ZERO, 2, size)], [(x, 1), (y, 1), (z, 1)])
    with threads(count):
        assert call.run() == w.DONE
    np.testing.assert_array_equal(y[1:-1], x[1:-1])
    assert not z[1:-1].any()
    assert (y[0], y[-1], z[0], z[-1]) == (1, 1, 1, 1)


def test_check_ends_the_run_and_tells_where():
    count, status = words(0), words(0)
    steps = [kernel(INCREMENT), step(w.CHECK, 1), kernel(INCREMENT)]
    call = Call(steps, [count, status])
    assert call.run() == w.DONE
    status[0] = -42
    assert call.run() == w.FAILED
    assert call.frame.failure == (1, -42)
    assert count[0] == 3
    status[0] = 0
    assert call.run() == w.DONE
    assert count[0] == 5


BAD = [
    ([step(77)], {}, "opcode"),
    ([step(-1)], {}, "opcode"),
    ([step(w.KERNEL, 0, 1, 0)], {}, "kernel address"),
    ([step(w.KERNEL, 4096, -1, 0)], {}, "tiles"),
    ([step(w.KERNEL, 4096, 1, 9)], {}, "first operand"),
    ([step(w.JUMP, 0, 5)], {}, "target"),
    ([step(w.JUMP_IF_FALSE, 2, 0)], {}, "entry"),
    ([step(w.COPY, 0, 2, 8)], {}, "entry"),
    ([step(w.COPY, 0, 1, -8)], {}, "bytes"),
    ([step(w.RESET, 1, 2)], {}, "end"),
    ([], {"slot": [0, 3]}, "slots"),
    ([], {"slot": [0, -2]}, "slots"),
    ([], {"slot": [0]}, "one length"),
]


@pytest.mark.parametrize(("steps", "changed", "message"), BAD)
def test_programs_that_would_leave_their_memory_are_refused(steps, changed, message):
    arguments = {"slot": [0, 0], "offset": [0, 8], "bases": 1} | changed
    steps = np.array(steps, np.int64).reshape(-1, 8)
    with pytest.raises(InternalError, match=message):
        Program(steps, **{k: np.array(v) if k != "bases" else v for k, v in arguments.items()})


# -- threads --------------------------------------------------------------------------------------
def sum_call(x, tiles):
    """Chunked sum in two steps, the first of them parallel; exact bits matter."""
    parts, out = np.zeros(tiles, "f4"), np.zeros(1, "f4")
    steps = [kernel(SUM_OF_SINES, tiles, 0, 1), kernel(ADD_PARTS, 1, 2)]
    return Call(steps, [x, parts, parts, words(tiles), out]), parts, out


def expected_parts(x, tiles):
    lanes = np.zeros((tiles, 16), "f4")
    for i in range(16):
        v = x.reshape(tiles, 16, 16)[:, i]
        lanes = lanes + v / (v * v + np.float32(0.3))
    for half in (8, 4, 2, 1):
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


@pytest.mark.parametrize("tiles", [1, 2, 5, 1000])
def test_any_number_of_threads_gives_the_same_bits(rng, tiles):
    x = rng.standard_normal(tiles * 256).astype("f4")
    call, parts, out = sum_call(x, tiles)
    expected = expected_parts(x, tiles)
    results = set()
    for count in (1, 2, 3, 7):
        with threads(count):
            for _ in range(20):
                parts[:] = np.nan
                assert call.run() == w.DONE
                np.testing.assert_array_equal(parts, expected)
                results.add(out.tobytes())
    assert len(results) == 1


def test_each_thread_has_its_own_scratch():
    out = np.zeros(500 * 64, np.int64)
    call = Call([kernel(SCRATCH, 500, 0, 1)], [out], scratch_bytes=500)
    assert call.program.scratch_bytes == 512
    with threads(4):
        for _ in range(20):
            out[:] = -1
            call.run()
            np.testing.assert_array_equal(out, np.arange(500 * 64))


def test_every_tile_runs_exactly_once():
    for tiles, count in itertools.product((2, 3, 15, 16, 17, 33, 1000), (2, 3, 5)):
        x = np.zeros(tiles, np.int64)
        call = Call([kernel(INCREMENT, tiles, 0, 1)] * 50, [x])
        with threads(count):
            call.run()
        np.testing.assert_array_equal(x, np.full(tiles, 50))


def test_workers_share_a_long_step():
    done = words(0)
    call = Call([kernel(SPIN, 6, 0, 1)], [words(5_000_000), done])
    call.frame.record(1, threads=3)
    with threads(3):
        call.run()
        call.run()
    (stamp,), executed = call.frame.stamps()
    assert (done[0], executed) == (12, 1)
    assert 2 <= stamp.workers <= 3
    assert stamp.busy >= 6 * 5_000_000
    assert stamp.busy / 3 <= stamp.busiest <= stamp.end - stamp.begin


def test_one_thread_starts_no_pool():
    script = """
    from test_launch import *
    x = np.zeros(1000, np.int64)
    call = Call([kernel(INCREMENT, 1000, 0, 1)], [x])
    for count in (1, 3):
        before = len(os.listdir("/proc/self/task"))
        with threads(count):
            call.run()
        print(len(os.listdir("/proc/self/task")) - before)
    assert (x == 2).all()
    """
    assert run_script(script).split() == ["0", "2"]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_eight_python_threads_at_once(count):
    def work(seed):
        x = np.random.default_rng(seed).standard_normal(200 * 256).astype("f4")
        call, parts, _ = sum_call(x, 200)
        expected = expected_parts(x, 200)
        with threads(count):
            for _ in range(100):
                parts[:] = 0
                assert call.run() == w.DONE
                np.testing.assert_array_equal(parts, expected)
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        assert all(executor.map(work, range(8)))


def test_first_calls_of_a_process_from_many_threads():
    script = """
    from test_launch import *
    barrier = threading.Barrier(16)
    def work(_):
        barrier.wait()
        x = words(0)
        call = Call([kernel(INCREMENT)], [x])
        for _ in range(1000):
            call.run()
        return x[0]
    with concurrent.futures.ThreadPoolExecutor(16) as executor:
        print(set(executor.map(work, range(16))) == {1000})
    """
    assert run_script(script) == "True\n"


def test_more_calls_than_job_slots():
    def work(_):
        x = np.zeros(64, np.int64)
        call = Call([kernel(INCREMENT, 64, 0, 1)] * 300, [x])
        with threads(2):
            call.run()
        return (x == 300).all()

    with concurrent.futures.ThreadPoolExecutor(40) as executor:
        assert all(executor.map(work, range(40)))


def test_the_interpreter_lock_is_free_during_a_run():
    done = words(0)
    call = Call([kernel(SPIN, 1)], [words(300_000_000), done])
    runner = threading.Thread(target=call.run)
    runner.start()
    ticks = 0
    while runner.is_alive():
        ticks += 1
        time.sleep(0.005)
    assert ticks > 10


def test_denormals_survive_a_caller_that_flushes_them():
    x = np.full(32, np.float32(1e-38), "f4")
    flush = compile_kernels([KernelSource("mode", HEAD + FLUSH_DENORMALS, arity=1)])[0]
    import ctypes

    set_mode = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(flush.address)
    call = Call([kernel(HALVE, 2)], [x])
    before = set_mode(0x1F80 | 0x8040)
    try:
        call.run()
        kept = set_mode(before)
    finally:
        set_mode(before)
    if kept != 0x1F80 | 0x8040:
        pytest.skip("no float control word on this architecture")
    np.testing.assert_array_equal(x, np.full(32, np.float32(1e-38) / 2, "f4"))


# -- fork -----------------------------------------------------------------------------------------
def run_script(script):
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_forked_children_compute_the_same():
    """The child has no worker threads and starts its own; the parent's go on."""
    script = """
    from test_launch import *
    x = np.random.default_rng(0).standard_normal(1000 * 256).astype("f4")
    call, parts, out = sum_call(x, 1000)
    with threads(3):
        call.run()
        expected = out.tobytes()
        for child in range(4):
            pid = os.fork()
            if pid == 0:
                assert len(os.listdir('/proc/self/task')) == 1
                for _ in range(20):
                    out[:] = 0
                    call.run()
                    assert out.tobytes() == expected
                assert len(os.listdir('/proc/self/task')) == 3
                os._exit(17)
            for _ in range(20):
                call.run()
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 17
            assert out.tobytes() == expected
    print("same")
    """
    assert run_script(script) == "same\n"


def test_the_process_ends_while_workers_spin_and_while_they_sleep():
    for pause in ("0", "0.05"):
        script = f"""
        from test_launch import *
        x = np.zeros(1000, np.int64)
        call = Call([kernel(INCREMENT, 1000, 0, 1)], [x])
        with threads(4):
            call.run()
        time.sleep({pause})
        """
        assert run_script(script) == ""


# -- ending early ---------------------------------------------------------------------------------
def send_interrupt_soon(seconds=0.15):
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@pytest.mark.parametrize("shape", ["many steps", "one serial step", "one parallel step"])
def test_ctrl_c_ends_a_run(shape):
    """Ten seconds of work, left within one; then the same frame runs to its end."""
    length, done = words(10_000_000), words(0)
    steps = {
        "many steps": [kernel(SPIN, 1)] * 1000,
        "one serial step": [kernel(SPIN, 1000, 0, 1)],
        "one parallel step": [kernel(SPIN, 1000, 0, 1)],
    }[shape]
    call = Call(steps, [length, done])
    with threads(2 if shape == "one parallel step" else 1):
        started = time.perf_counter()
        timer = send_interrupt_soon()
        with pytest.raises(KeyboardInterrupt):
            call.run()
        assert time.perf_counter() - started < 3
        timer.join()
        assert 0 < done[0] < 1000
        length[0], done[0] = 0, 0
        assert call.run() == w.DONE
    assert done[0] == 1000


def test_ctrl_c_also_ends_a_run_that_holds_the_lock():
    """The system delivers an alarm whatever Python's lock; the handler is Ctrl-C's own."""
    done = words(0)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            Call([kernel(SPIN, 1)] * 1000, [words(10_000_000), done], hold_gil=True).run()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert 0 < done[0] < 1000


def test_after_commit_a_run_goes_to_its_end():
    length, done = words(100_000_000), words(0)
    call = Call([step(w.COMMIT), *[kernel(SPIN, 1)] * 5], [length, done])

    def interrupted_run():
        call.run()
        time.sleep(1)  # the signal may also come a moment after the run

    timer = send_interrupt_soon(0.1)
    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    timer.join()
    assert done[0] == 5


def test_handlers_that_do_not_raise_let_the_run_go_on():
    seen, done = [], words(0)
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(int(done[0])))
    try:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        assert Call([kernel(SPIN, 1)] * 50, [words(10_000_000), done]).run() == w.DONE
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert done[0] == 50
    assert len(seen) == 1
    assert 0 < seen[0] < 50  # in the middle of the run, not after it


def test_stop_from_another_thread():
    done = words(0)
    call = Call([kernel(SPIN, 1)] * 1000, [words(10_000_000), done])
    threading.Timer(0.1, call.frame.stop).start()
    assert call.run() == w.STOPPED
    assert 0 < done[0] < 1000
    call.arrays[0][0] = 0
    assert call.run() == w.DONE


# -- stamps and cost ------------------------------------------------------------------------------
def test_stamps_of_serial_steps():
    length = words(2_000_000)
    steps = [kernel(SPIN, 1), step(w.JUMP, 0, 2), kernel(SPIN, 2), step(w.ZERO, 2, 8)]
    call = Call(steps, [length, words(0), words(1)])
    call.frame.record(10)
    before = time.perf_counter_ns()
    call.run()
    after = time.perf_counter_ns()
    stamps, executed = call.frame.stamps()
    assert executed == 3
    assert [s.step for s in stamps] == [0, 2, 3]
    times = [before, *itertools.chain.from_iterable((s.begin, s.end) for s in stamps), after]
    assert times == sorted(times)
    assert stamps[0].end - stamps[0].begin >= 2_000_000
    assert stamps[1].end - stamps[1].begin >= 4_000_000
    assert all(s.workers == 1 and s.busy == s.end - s.begin == s.busiest for s in stamps)


def test_stamps_beyond_their_room_are_counted():
    count = words(0)
    call = Call([kernel(INCREMENT, 1, 0), step(w.LOOP, 1, 0)], [count, 100])
    call.frame.record(7)
    call.run()
    stamps, executed = call.frame.stamps()
    assert (len(stamps), executed, count[0]) == (7, 100, 100)
    call.frame.record(0)
    call.run()
    assert call.frame.stamps() == ([], 0)


def test_a_small_call_costs_little():
    """Measured 0.3 us for eight steps; the bound leaves room for a busy machine."""
    x = words(0)
    call = Call([kernel(INCREMENT, 1)] * 8, [x])
    assert min(timeit.repeat(call.frame.run, number=2000, repeat=10)) / 2000 < 2e-6


# -- the budget -----------------------------------------------------------------------------------
def test_budget_nests_and_belongs_to_its_thread():
    default = default_threads()
    with threads(3):
        with threads(5):
            assert get_threads() == 5
            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                assert executor.submit(get_threads).result() == default
        assert get_threads() == 3
    assert get_threads() == default


def test_budget_is_restored_after_an_error():
    default = get_threads()
    with pytest.raises(ZeroDivisionError), threads(2):
        raise ZeroDivisionError
    assert get_threads() == default


@pytest.mark.parametrize("count", [0, -1, 1.5, "2x", None, True, 100_000])
def test_budget_must_be_a_number_of_threads(count):
    with pytest.raises(ValueError, match="threads must be"):
        threads(count)


def test_budget_takes_numpy_integers():
    with threads(np.int32(2)):
        assert get_threads() == 2


@pytest.mark.parametrize(
    ("value", "expected"), [("1", "1"), ("3", "3"), ("zero", "a whole number"), ("0", "from 1 to")]
)
def test_numba_num_threads_is_the_default(monkeypatch, value, expected):
    monkeypatch.setenv("NUMBA_NUM_THREADS", value)
    default_threads.cache_clear()
    try:
        if expected.isdigit():
            assert default_threads() == int(expected)
        else:
            with pytest.raises(ValueError, match=f"NUMBA_NUM_THREADS must be {expected}"):
                default_threads()
    finally:
        default_threads.cache_clear()


def test_layer_names_the_pool():
    name, note = layer()
    assert name == "pool"
    assert bool(note) == (default_threads() == 1)
