"""The compiled side of the launcher: one loop that runs a whole plan, and the workers that help it.

This file is itself a kernel source: `launch` compiles the functions below through the kernel cache.
Numba compiles one function at a time, so they call each other through addresses in the frame.

How a parallel step is shared: each thread has a range of tiles to begin with, the same one for
steps of the same size, so that data stays in its core's cache; who is done helps with the other
ranges, chunk by chunk, so that a slow core costs little. The calling thread fills a job slot, opens
it, and starts on the first range. Idle workers watch EPOCH and join. When no tile is left, the
caller closes the job and waits only for those inside; a worker that was late to wake costs nothing.
"""

# ruff: noqa: F403, F405 (the words and intrinsics are this file's language)
from staticgraph.codegen.launchwords import *
from staticgraph.codegen.lowlevel import *

DEFAULT_FLOAT_MODE = 0x1F80  # x86: round to nearest, denormals kept, exceptions masked


def start(self, items):
    """Run the plan of the frame whose address is the Python int `self`.

    C signature of a METH_O builtin: takes Python objects, returns one, or NULL with an exception
    set (a KeyboardInterrupt, say). `items` is a tuple: an int with the number of threads and
    MAIN_THREAD, then arrays, whose data become bases 1, 2, ... (one attribute access each would
    cost Python more than a small kernel takes).
    """
    frame = int_of_object(self)
    argument = int_of_object(word(items, TUPLE_ITEMS))
    if argument < 0 and exception_set() != 0:
        return 0
    threads = argument & THREADS_MASK
    may_signal = argument & MAIN_THREAD
    may_stop = 1
    gil = 0
    if word(frame, HOLD_GIL) == 0:
        gil = release_gil()
    old_mode = set_float_mode(DEFAULT_FLOAT_MODE)

    steps = word(frame, STEPS)
    end = word(frame, STEP_COUNT)
    table = word(frame, TABLE)
    slot_of = word(frame, SLOT)
    offset_of = word(frame, OFFSET)
    bases = word(frame, BASES)
    for i in range(1, word(items, TUPLE_SIZE)):
        put(bases, i, word(word(items, TUPLE_ITEMS + i), ARRAY_DATA))
    scratch = word(frame, SCRATCH)
    pool = word(frame, POOL)
    move = word(frame, MOVE)
    stamps = word(frame, STAMPS)
    stamp_rows = word(frame, STAMP_ROWS)
    stamp_seats = word(frame, STAMP_SEATS)
    for i in range(word(frame, TABLE_COUNT)):
        put(table, i, word(bases, word(slot_of, i)) + word(offset_of, i))
    put(frame, DEADLINE, 0)

    stamped = 0
    patience = POLL_STEPS
    status = DONE
    pc = 0
    while pc < end:
        step = steps + pc * (8 * STEP_WORDS)
        opcode = word(step, 0)
        a = word(step, 1)
        b = word(step, 2)
        c = word(step, 3)
        parallel = 0
        tiles = 0
        kernel = a
        bufs = table + 8 * c
        following = pc + 1
        if opcode == KERNEL:
            tiles = b
            parallel = word(step, 4)
        elif opcode == JUMP_IF_FALSE:
            if byte(word(table, a)) == 0:
                following = b
        elif opcode == JUMP:
            following = b
        elif opcode in (COPY, ZERO):
            kernel = move
            bufs = frame + 8 * MOVE_OPERANDS
            if opcode == COPY:
                put(bufs, 0, word(table, b))
                put(bufs, 1, word(table, a))
                put(bufs, 2, c)
            else:
                put(bufs, 0, word(table, a))
                put(bufs, 1, 0)
                put(bufs, 2, b)
            count = word(bufs, 2)
            tiles = (count + (MOVE_TILE - 1)) // MOVE_TILE
            if count >= MOVE_PARALLEL:
                parallel = 1
        elif opcode == CHECK:
            code = word(word(table, a), 0)
            if code != 0:
                put(frame, CODE, code)
                status = FAILED
        elif opcode == ADVANCE:
            put(table, a, word(table, a) + b)
        elif opcode == LOOP:
            left = word(table, a) - 1
            put(table, a, left)
            if left > 0:
                following = b
        elif opcode == RESET:
            for i in range(a, a + b):
                put(table, i, word(bases, word(slot_of, i)) + word(offset_of, i))
        elif opcode == COMMIT:
            may_stop = 0

        patience -= 1
        if parallel != 0 or patience <= 0:
            patience = POLL_STEPS
            if may_stop != 0 and status == DONE:
                status = call_poll(word(frame, POLL), frame, gil, may_signal)

        if status != DONE:
            break

        seats = 0
        if tiles > 0 and stamps != 0:
            if stamped < stamp_rows:
                row = stamps + stamped * (8 * (STAMP_WORDS + stamp_seats * SEAT_WORDS))
                seats = row + 8 * STAMP_WORDS
                for i in range(stamp_seats * SEAT_WORDS):
                    put(seats, i, 0)
                put(row, STAMP_STEP, pc)
                put(row, STAMP_BEGIN, now())
            stamped += 1
        computed = tiles
        job = 0
        if parallel != 0 and threads > 1 and tiles > 1:
            for i in range(SLOT_COUNT):
                candidate = pool + 8 * (SLOTS + i * SLOT_WORDS)
                if word(candidate, OWNER) == 0 and exchange_if(candidate, OWNER, 0, 1) != 0:
                    job = candidate
                    break

        if job != 0:
            ranges = word(frame, RANGES)
            begin = 0
            for i in range(threads):
                mine = ranges + i * (8 * RANGE_WORDS)
                put(mine, RANGE_NEXT, begin)
                begin = tiles * (i + 1) // threads
                put(mine, RANGE_END, begin)
                put(mine, RANGE_TAKEN, 0)
            chunk = max(1, tiles // (threads * CHUNKS_PER_THREAD))
            put(job, JOB_KERNEL, kernel)
            put(job, JOB_THREADS, threads)
            put(job, JOB_CHUNK, chunk)
            put(job, JOB_BUFS, bufs)
            put(job, JOB_SCRATCH, scratch)
            put(job, JOB_STRIDE, word(frame, SCRATCH_STRIDE))
            put(job, JOB_RANGES, ranges)
            put(job, JOB_SEATS, seats)
            put(job, JOB_SEAT_COUNT, stamp_seats)
            atomic_put(job, JOB_OPEN, 1)
            atomic_add(pool, EPOCH, 1)
            sleeping = atomic_word(pool, SLEEPERS)
            if sleeping > 0:
                mutex_lock(pool + 8 * MUTEX)
                for _ in range(min(sleeping, threads - 1, tiles - 1)):
                    condition_signal(pool + 8 * CONDITION)
                mutex_unlock(pool + 8 * MUTEX)
            if seats != 0:
                put(seats, SEAT_BEGIN, now())
            computed = 0
            for i in range(threads):
                mine = ranges + i * (8 * RANGE_WORDS)
                last = word(mine, RANGE_END)
                while atomic_word(mine, RANGE_NEXT) < last:
                    lo = atomic_add(mine, RANGE_NEXT, chunk)
                    if lo >= last:
                        break
                    call_kernel(kernel, lo, min(lo + chunk, last), bufs, scratch)
                    computed += min(chunk, last - lo)
                    if may_stop != 0 and status == DONE:
                        status = call_poll(word(frame, POLL), frame, gil, may_signal)
                        if status != DONE:
                            for j in range(threads):
                                other = ranges + j * (8 * RANGE_WORDS)
                                atomic_put(other, RANGE_NEXT, word(other, RANGE_END))
            if seats != 0:
                put(seats, SEAT_END, now())
            atomic_put(job, JOB_OPEN, 0)
            spins = 0
            while atomic_word(job, JOB_INSIDE) != 0:
                pause()
                spins += 1
                if spins > SPINS_ALONE:
                    yield_core()
        elif parallel != 0 and tiles > 1:
            lo = 0
            chunk = max(1, tiles // CHUNKS_PER_THREAD)
            while lo < tiles and status == DONE:
                call_kernel(kernel, lo, min(lo + chunk, tiles), bufs, scratch)
                lo += chunk
                if may_stop != 0:
                    status = call_poll(word(frame, POLL), frame, gil, may_signal)
        elif tiles > 0:
            call_kernel(kernel, 0, tiles, bufs, scratch)

        if seats != 0:
            finished = now()
            row = seats - 8 * STAMP_WORDS
            put(row, STAMP_END, finished)
            put(seats, SEAT_TILES, computed)
            if job == 0:
                put(seats, SEAT_BEGIN, word(row, STAMP_BEGIN))
                put(seats, SEAT_END, finished)
        if job != 0:
            atomic_put(job, OWNER, 0)
        if status != DONE:
            break
        pc = following

    put(frame, STAMPED, stamped)
    put(frame, ENDED_AT, pc)
    set_float_mode(old_mode)
    if status == INTERRUPTED:
        return 0
    if gil != 0:
        acquire_gil(gil)
    return object_of_int(status)


def poll(frame, gil, may_signal):
    """Whether the run must end: `stop` was asked for, or a signal handler raised.

    Signals are looked at only every POLL_NS, since that takes the GIL. After INTERRUPTED the GIL
    is held and the exception set. A first look comes POLL_NS after the start.
    """
    if atomic_word(frame, STOP) != 0:
        return STOPPED
    time = now()
    deadline = word(frame, DEADLINE)
    if time < deadline:
        return DONE
    if deadline != 0 and may_signal != 0:
        if gil != 0:
            acquire_gil(gil)
        if check_signals() != 0:
            return INTERRUPTED
        if gil != 0:
            release_gil()
        time = now()
    put(frame, DEADLINE, time + POLL_NS)
    return DONE


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
                threads = word(job, JOB_THREADS)
                ranges = word(job, JOB_RANGES)
                for k in range(threads - 1):
                    wanted = 1 + (number + k) % (threads - 1)
                    mine = ranges + wanted * (8 * RANGE_WORDS)
                    if exchange_if(mine, RANGE_TAKEN, 0, 1) != 0:
                        seat = wanted
                        break
            if seat != 0:
                joined = 1
                stamp = word(job, JOB_SEATS)
                if stamp != 0:
                    if seat < word(job, JOB_SEAT_COUNT):
                        stamp += seat * (8 * SEAT_WORDS)
                        put(stamp, SEAT_BEGIN, now())
                    else:
                        stamp = 0
                kernel = word(job, JOB_KERNEL)
                chunk = word(job, JOB_CHUNK)
                bufs = word(job, JOB_BUFS)
                scratch = word(job, JOB_SCRATCH) + seat * word(job, JOB_STRIDE)
                computed = 0
                for k in range(threads):
                    mine = ranges + ((seat + k) % threads) * (8 * RANGE_WORDS)
                    last = word(mine, RANGE_END)
                    while atomic_word(mine, RANGE_NEXT) < last:
                        lo = atomic_add(mine, RANGE_NEXT, chunk)
                        if lo >= last:
                            break
                        call_kernel(kernel, lo, min(lo + chunk, last), bufs, scratch)
                        computed += min(chunk, last - lo)
                if stamp != 0:
                    put(stamp, SEAT_END, now())
                    put(stamp, SEAT_TILES, computed)
            atomic_add(job, JOB_INSIDE, -1)
        if joined != 0:
            idle_since = now()
            continue
        spins = 0
        while atomic_word(pool, EPOCH) == epoch and atomic_word(pool, SHUTDOWN) == 0:
            pause()
            spins += 1
            if spins > SPINS_ALONE:
                yield_core()
                if now() - idle_since > SPIN_NS:
                    mutex_lock(pool + 8 * MUTEX)
                    atomic_add(pool, SLEEPERS, 1)
                    while atomic_word(pool, EPOCH) == epoch and atomic_word(pool, SHUTDOWN) == 0:
                        condition_wait(pool + 8 * CONDITION, pool + 8 * MUTEX)
                    atomic_add(pool, SLEEPERS, -1)
                    mutex_unlock(pool + 8 * MUTEX)
                    idle_since = now()
                    break
    return 0


def move(lo, hi, bufs, scratch):
    """COPY and ZERO as a kernel: `bufs` holds destination, source (0: zeros) and bytes."""
    begin = lo * MOVE_TILE
    count = min(hi * MOVE_TILE, word(bufs, 2)) - begin
    source = word(bufs, 1)
    if source == 0:
        zero_bytes(word(bufs, 0) + begin, count)
    else:
        copy_bytes(word(bufs, 0) + begin, source + begin, count)
