"""The compiled side of the launcher: one loop that runs a whole plan, alone or with workers.

This file and `launchworkers` are one kernel source: `launch` compiles `start`, `poll`, `worker` and
`move` through the kernel cache. Each is compiled alone, so they reach each other through addresses
in the frame; what is marked as a `part` is lowered in place where it is called.

How a parallel step is shared: each thread has a range of tiles to begin with, the same one for
steps of the same size, so that data stays in its core's cache; who is done helps with the other
ranges, chunk by chunk, so that a slow core costs little. The calling thread fills a job slot, opens
it, and starts on the first range. Idle workers watch EPOCH and join. When no tile is left, the
caller closes the job and waits only for those inside; a worker that was late to wake costs nothing.
"""

# ruff: noqa: F403, F405 (the words and intrinsics are this file's language)
from staticgraph.codegen.launchwords import *
from staticgraph.codegen.launchworkers import *
from staticgraph.codegen.lowlevel import *


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
    gil = 0
    if word(frame, HOLD_GIL) == 0:
        gil = release_gil()
    old_mode = set_float_mode(DEFAULT_FLOAT_MODE)
    for i in range(1, word(items, TUPLE_SIZE)):
        put(word(frame, BASES), i, word(word(items, TUPLE_ITEMS + i), ARRAY_DATA))
    resolve(frame, 0, word(frame, TABLE_COUNT))
    put(frame, DEADLINE, 0)
    status = run(frame, argument & THREADS_MASK, gil, argument & MAIN_THREAD)
    set_float_mode(old_mode)
    if status == INTERRUPTED:
        return 0
    if gil != 0:
        acquire_gil(gil)
    return object_of_int(status)


@part
def resolve(frame, first, end):
    """Addresses in the table's entries first .. end, as at the start of a run."""
    table = word(frame, TABLE)
    slot_of = word(frame, SLOT)
    offset_of = word(frame, OFFSET)
    bases = word(frame, BASES)
    for i in range(first, end):
        put(table, i, word(bases, word(slot_of, i)) + word(offset_of, i))


@part
def run(frame, threads, gil, may_signal):
    """Execute the steps; how the run ended."""
    steps = word(frame, STEPS)
    end = word(frame, STEP_COUNT)
    table = word(frame, TABLE)
    scratch = word(frame, SCRATCH)
    pool = word(frame, POOL)
    move = word(frame, MOVE)
    stamps = word(frame, STAMPS)
    stamped = 0
    patience = POLL_STEPS
    may_stop = 1
    status = DONE
    pc = 0
    while pc < end:
        step = steps + pc * (8 * STEP_WORDS)
        opcode = word(step, 0)
        kernel = word(step, 1)
        bufs = table + 8 * word(step, 3)
        tiles = 0
        parallel = 0
        following = pc + 1
        if opcode == KERNEL:
            tiles = word(step, 2)
            parallel = word(step, 4)
        elif opcode in (COPY, ZERO):
            kernel = move
            bufs = frame + 8 * MOVE_OPERANDS
            count = operands_of_move(bufs, step, table)
            tiles = (count + (MOVE_TILE - 1)) // MOVE_TILE
            if count >= MOVE_PARALLEL:
                parallel = 1
        elif opcode == CHECK:
            status = check(frame, word(word(table, word(step, 1)), 0))
        elif opcode == COMMIT:
            may_stop = 0
        else:
            following = control(frame, step, table, pc)

        patience -= 1
        if parallel != 0 or patience <= 0:
            patience = POLL_STEPS
            status = look(status, frame, gil, may_signal, may_stop)
        if status != DONE:
            break

        seats = 0
        if tiles > 0 and stamps != 0:
            seats = begin_stamp(frame, stamped, pc)
            stamped += 1
        job = 0
        if parallel != 0 and threads > 1 and tiles > 1:
            job = free_slot(pool)
        if job != 0:
            share_out(word(frame, RANGES), tiles, threads)
            chunk = max(1, tiles // (threads * CHUNKS_PER_THREAD))
            post(job, frame, threads, chunk, kernel, bufs, seats)
            wake(pool, min(threads - 1, tiles - 1))
            status = lead(job, frame, gil, may_signal, may_stop)
            leave_alone(job)
        elif parallel != 0 and tiles > 1:
            chunk = max(1, tiles // CHUNKS_PER_THREAD)
            lo = 0
            while lo < tiles and status == DONE:
                call_kernel(kernel, lo, min(lo + chunk, tiles), bufs, scratch)
                lo += chunk
                status = look(status, frame, gil, may_signal, may_stop)
        elif tiles > 0:
            call_kernel(kernel, 0, tiles, bufs, scratch)
        if seats != 0:
            end_stamp(seats, job, tiles)
        if job != 0:
            atomic_put(job, OWNER, 0)
        if status != DONE:
            break
        pc = following

    put(frame, STAMPED, stamped)
    put(frame, ENDED_AT, pc)
    return status


# -- steps that compute nothing -------------------------------------------------------------------
@part
def operands_of_move(operands, step, table):
    """What `move` reads for a COPY or ZERO; the number of bytes."""
    a = word(step, 1)
    b = word(step, 2)
    if word(step, 0) == COPY:
        put(operands, 0, word(table, b))
        put(operands, 1, word(table, a))
        put(operands, 2, word(step, 3))
    else:
        put(operands, 0, word(table, a))
        put(operands, 1, 0)
        put(operands, 2, b)
    return word(operands, 2)


@part
def check(frame, code):
    """A status word that is not zero ends the run."""
    if code == 0:
        return DONE
    put(frame, CODE, code)
    return FAILED


@part
def control(frame, step, table, pc):
    """Jumps, counters and moving table entries; the step that follows."""
    opcode = word(step, 0)
    a = word(step, 1)
    b = word(step, 2)
    following = pc + 1
    if opcode == JUMP_IF_FALSE:
        if byte(word(table, a)) == 0:
            following = b
    elif opcode == JUMP:
        following = b
    elif opcode == ADVANCE:
        put(table, a, word(table, a) + b)
    elif opcode == LOOP:
        left = word(table, a) - 1
        put(table, a, left)
        if left > 0:
            following = b
    elif opcode == RESET:
        resolve(frame, a, a + b)
    return following


# -- whether the run must end ---------------------------------------------------------------------
@part
def look(status, frame, gil, may_signal, may_stop):
    """Ask `poll`, unless the run ends anyway or may not end before its last step."""
    if may_stop == 0 or status != DONE:
        return status
    return call_poll(word(frame, POLL), frame, gil, may_signal)


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


# -- stamps: when a step ran, and on whom ---------------------------------------------------------
@part
def begin_stamp(frame, stamped, pc):
    """Open row number `stamped`; where its seats are, or 0 if there is no row left."""
    if stamped >= word(frame, STAMP_ROWS):
        return 0
    seat_words = word(frame, STAMP_SEATS) * SEAT_WORDS
    row = word(frame, STAMPS) + stamped * (8 * (STAMP_WORDS + seat_words))
    seats = row + 8 * STAMP_WORDS
    for i in range(seat_words):
        put(seats, i, 0)
    put(row, STAMP_STEP, pc)
    put(row, STAMP_BEGIN, now())
    return seats


@part
def end_stamp(seats, job, tiles):
    """Close the row; without a job, the caller computed everything from begin to end."""
    finished = now()
    row = seats - 8 * STAMP_WORDS
    put(row, STAMP_END, finished)
    if job == 0:
        put(seats, SEAT_BEGIN, word(row, STAMP_BEGIN))
        put(seats, SEAT_END, finished)
        put(seats, SEAT_TILES, tiles)


# -- a job, as the call that posts it sees it; the workers' side is `launchworkers` ---------------
@part
def free_slot(pool):
    """A job slot that is ours from now on, or 0 where other calls have them all."""
    for i in range(SLOT_COUNT):
        job = pool + 8 * (SLOTS + i * SLOT_WORDS)
        if word(job, OWNER) == 0 and exchange_if(job, OWNER, 0, 1) != 0:
            return job
    return 0


@part
def share_out(ranges, tiles, threads):
    """Give each thread the range of tiles to begin with."""
    begin = 0
    for i in range(threads):
        mine = ranges + i * (8 * RANGE_WORDS)
        put(mine, RANGE_NEXT, begin)
        begin = tiles * (i + 1) // threads
        put(mine, RANGE_END, begin)
        put(mine, RANGE_TAKEN, 0)


@part
def post(job, frame, threads, chunk, kernel, bufs, seats):
    """Fill the slot, then open it."""
    put(job, JOB_KERNEL, kernel)
    put(job, JOB_THREADS, threads)
    put(job, JOB_CHUNK, chunk)
    put(job, JOB_BUFS, bufs)
    put(job, JOB_SCRATCH, word(frame, SCRATCH))
    put(job, JOB_STRIDE, word(frame, SCRATCH_STRIDE))
    put(job, JOB_RANGES, word(frame, RANGES))
    put(job, JOB_SEATS, seats)
    put(job, JOB_SEAT_COUNT, word(frame, STAMP_SEATS))
    atomic_put(job, JOB_OPEN, 1)


@part
def wake(pool, helpers):
    """Tell the workers of a new job, and signal those asleep, at most `helpers`."""
    atomic_add(pool, EPOCH, 1)
    sleeping = atomic_word(pool, SLEEPERS)
    if sleeping > 0:
        mutex_lock(pool + 8 * MUTEX)
        for _ in range(min(sleeping, helpers)):
            condition_signal(pool + 8 * CONDITION)
        mutex_unlock(pool + 8 * MUTEX)


@part
def lead(job, frame, gil, may_signal, may_stop):
    """The caller's work on its own job, in seat 0; the status it ends with."""
    threads = word(job, JOB_THREADS)
    ranges = word(job, JOB_RANGES)
    chunk = word(job, JOB_CHUNK)
    seats = word(job, JOB_SEATS)
    if seats != 0:
        put(seats, SEAT_BEGIN, now())
    computed = 0
    status = DONE
    for i in range(threads):
        mine = ranges + i * (8 * RANGE_WORDS)
        last = word(mine, RANGE_END)
        lo = take(mine, chunk)
        while lo < last:
            computed += compute(job, lo, last, word(job, JOB_SCRATCH))
            if status == DONE:
                status = look(status, frame, gil, may_signal, may_stop)
                if status != DONE:
                    give_up(ranges, threads)
            lo = take(mine, chunk)
    if seats != 0:
        put(seats, SEAT_END, now())
        put(seats, SEAT_TILES, computed)
    return status


@part
def give_up(ranges, threads):
    """Leave no tile to take."""
    for i in range(threads):
        mine = ranges + i * (8 * RANGE_WORDS)
        atomic_put(mine, RANGE_NEXT, word(mine, RANGE_END))


@part
def leave_alone(job):
    """Let nobody join any more, and wait for those inside."""
    atomic_put(job, JOB_OPEN, 0)
    spins = 0
    while atomic_word(job, JOB_INSIDE) != 0:
        pause()
        spins += 1
        if spins > SPINS_ALONE:
            yield_core()


# -- moving bytes ---------------------------------------------------------------------------------
def move(lo, hi, bufs, scratch):
    """COPY and ZERO as a kernel: `bufs` holds destination, source (0: zeros) and bytes."""
    begin = lo * MOVE_TILE
    count = min(hi * MOVE_TILE, word(bufs, 2)) - begin
    source = word(bufs, 1)
    if source == 0:
        zero_bytes(word(bufs, 0) + begin, count)
    else:
        copy_bytes(word(bufs, 0) + begin, source + begin, count)
