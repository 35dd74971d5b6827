"""The workers that help a plan's parallel steps, and how anyone takes tiles of a job.

Part of the kernel source that `launchloop` describes.
"""

# ruff: noqa: F403, F405 (the words and intrinsics are this file's language)
from staticgraph.codegen.launchwords import *
from staticgraph.codegen.lowlevel import *

DEFAULT_FLOAT_MODE = 0x1F80  # x86: round to nearest, denormals kept, exceptions masked


def worker(pool):
    """Body of a pool thread: help whoever posts a job, spin a little when idle, then sleep."""
    set_float_mode(DEFAULT_FLOAT_MODE)
    number = atomic_add(pool, WORKERS, 1)
    idle_since = now()
    while atomic_word(pool, SHUTDOWN) == 0:
        epoch = atomic_word(pool, EPOCH)
        joined = 0
        for i in range(SLOT_COUNT):
            job = pool + 8 * (SLOTS + i * SLOT_WORDS)
            if atomic_word(job, JOB_OPEN) == 0:
                continue
            # First inside, then a second look: either the owner waits for us or we see it closed.
            atomic_add(job, JOB_INSIDE, 1)
            seat = 0
            if atomic_word(job, JOB_OPEN) != 0:
                seat = free_seat(job, number)
            if seat != 0:
                joined = 1
                help_with(job, seat)
            atomic_add(job, JOB_INSIDE, -1)
        if joined == 0:
            idle_since = rest(pool, epoch, idle_since)
            continue
        idle_since = now()
    return 0


@part
def free_seat(job, number):
    """A thread's place in the job that is ours from now on, or 0 if all are taken."""
    others = word(job, JOB_THREADS) - 1
    for k in range(others):
        wanted = 1 + (number + k) % others
        mine = word(job, JOB_RANGES) + wanted * (8 * RANGE_WORDS)
        if exchange_if(mine, RANGE_TAKEN, 0, 1) != 0:
            return wanted
    return 0


@part
def help_with(job, seat):
    """Compute chunks of our own range, then of the others, until none is left."""
    stamp = 0
    if word(job, JOB_SEATS) != 0 and seat < word(job, JOB_SEAT_COUNT):
        stamp = word(job, JOB_SEATS) + seat * (8 * SEAT_WORDS)
        put(stamp, SEAT_BEGIN, now())
    threads = word(job, JOB_THREADS)
    ranges = word(job, JOB_RANGES)
    chunk = word(job, JOB_CHUNK)
    scratch = word(job, JOB_SCRATCH) + seat * word(job, JOB_STRIDE)
    computed = 0
    for k in range(threads):
        mine = ranges + ((seat + k) % threads) * (8 * RANGE_WORDS)
        last = word(mine, RANGE_END)
        lo = take(mine, chunk)
        while lo < last:
            computed += compute(job, lo, last, scratch)
            lo = take(mine, chunk)
    if stamp != 0:
        put(stamp, SEAT_END, now())
        put(stamp, SEAT_TILES, computed)


@part
def rest(pool, epoch, idle_since):
    """Spin, then sleep, until there is a job newer than `epoch`; since when we are idle."""
    spins = 0
    while atomic_word(pool, EPOCH) == epoch and atomic_word(pool, SHUTDOWN) == 0:
        pause()
        spins += 1
        if spins > SPINS_ALONE:
            yield_core()
            if now() - idle_since > SPIN_NS:
                sleep(pool, epoch)
                return now()
    return idle_since


@part
def sleep(pool, epoch):
    """Wait on CONDITION until there is a job newer than `epoch`."""
    mutex_lock(pool + 8 * MUTEX)
    atomic_add(pool, SLEEPERS, 1)
    while atomic_word(pool, EPOCH) == epoch and atomic_word(pool, SHUTDOWN) == 0:
        condition_wait(pool + 8 * CONDITION, pool + 8 * MUTEX)
    atomic_add(pool, SLEEPERS, -1)
    mutex_unlock(pool + 8 * MUTEX)


# -- a job, as both sides see it ------------------------------------------------------------------
@part
def take(mine, chunk):
    """First tile of a chunk of the range that nobody else has, or the range's end."""
    last = word(mine, RANGE_END)
    if atomic_word(mine, RANGE_NEXT) >= last:
        return last
    return min(last, atomic_add(mine, RANGE_NEXT, chunk))


@part
def compute(job, lo, last, scratch):
    """Compute the chunk that begins with tile `lo`; how many tiles it has."""
    chunk = min(word(job, JOB_CHUNK), last - lo)
    call_kernel(word(job, JOB_KERNEL), lo, lo + chunk, word(job, JOB_BUFS), scratch)
    return chunk
