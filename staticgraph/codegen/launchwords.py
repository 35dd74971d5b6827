"""Where the launcher's compiled loop and its Python side agree: opcodes and memory layouts.

Everything is 64-bit words; a name is the index of its word. No import may be added here that
imports Numba: a process whose code is all cached reads this file and not the loop.
"""

# -- steps: rows of eight words [opcode, a, b, c, d, 0, 0, 0] ------------------------------------
STEP_WORDS = 8
KERNEL = 0  # a = kernel address, b = tiles, c = first operand in the table, d = 1: may run parallel
JUMP_IF_FALSE = 1  # a = table entry of a one-byte bool, b = target step
JUMP = 2  # b = target step
COPY = 3  # a = table entry of the source, b = of the destination, c = bytes
CHECK = 4  # a = table entry of an int64 status word; non-zero ends the run
ZERO = 5  # a = table entry, b = bytes
ADVANCE = 6  # table[a] += b
LOOP = 7  # table[a] -= 1, then to step b while table[a] > 0
RESET = 8  # table[a : a + b] as at the start of the run
COMMIT = 9  # from here on neither Ctrl-C nor `stop` ends the run
OPCODES = (
    *("KERNEL", "JUMP_IF_FALSE", "JUMP", "COPY", "CHECK"),
    *("ZERO", "ADVANCE", "LOOP", "RESET", "COMMIT"),
)

# -- how a run ends ------------------------------------------------------------------------------
DONE = 0
FAILED = 1  # a CHECK met a non-zero word
STOPPED = 2  # the frame's STOP word was set
INTERRUPTED = 3  # a signal handler raised; seen as that exception only

# -- the frame: what one call at a time owns -----------------------------------------------------
STEPS = 0  # address
STEP_COUNT = 1
TABLE = 2  # address of the resolved operand addresses
TABLE_COUNT = 3
SLOT = 4  # address; table[i] = bases[slot[i]] + offset[i]
OFFSET = 5  # address
BASES = 6  # address
SCRATCH = 7  # address; worker w owns scratch + w * stride
SCRATCH_STRIDE = 8  # bytes
HOLD_GIL = 9  # 1: too short a plan to be worth releasing it
POOL = 10  # address
POLL = 11  # address of the compiled `poll`
MOVE = 12  # address of the compiled `move`
STAMPS = 13  # address of rows to write, 0 for none
STAMP_ROWS = 14  # room there
STAMPED = 15  # rows that the last run would have written
STAMP_SEATS = 16  # threads that a row has room for
STOP = 17  # non-zero: end before the next step
ENDED_AT = 18  # the step where the run failed or stopped
CODE = 19  # the status word that CHECK met
DEADLINE = 20  # when to look for signals again
MOVE_OPERANDS = 21  # destination, source (0: zeros), bytes
RANGES = 24  # address of one tile range per thread
FRAME_WORDS = 25

# -- a tile range: where one thread begins; others help when they are done -----------------------
RANGE_WORDS = 8  # a cache line
RANGE_NEXT = 0  # next tile nobody has taken
RANGE_END = 1
RANGE_TAKEN = 2  # 1: a thread begins here

# -- stamps: one row per executed KERNEL, COPY or ZERO, times in ns of CLOCK_MONOTONIC -----------
STAMP_STEP = 0
STAMP_BEGIN = 1
STAMP_END = 2
STAMP_WORDS = 3  # then a seat for each thread, zeros where one computed nothing
SEAT_BEGIN = 0
SEAT_END = 1
SEAT_TILES = 2
SEAT_WORDS = 3

# -- argument of `start` -------------------------------------------------------------------------
THREADS_MASK = 0xFFFF
MAIN_THREAD = 1 << 16  # the caller may receive signals

# -- the pool: shared by all calls of the process ------------------------------------------------
EPOCH = 0  # counts posted jobs; idle workers watch it
SLEEPERS = 8  # workers waiting on CONDITION (a cache line of its own, as the next)
SHUTDOWN = 9
WORKERS = 10  # how many ever started; gives each its number
MUTEX = 16  # pthread_mutex_t, at most 128 bytes
CONDITION = 32  # pthread_cond_t, at most 128 bytes
SLOTS = 48  # first job slot
SLOT_COUNT = 16
SLOT_WORDS = 32
POOL_WORDS = SLOTS + SLOT_COUNT * SLOT_WORDS

# -- a job slot: a parallel step that workers may join -------------------------------------------
OWNER = 0  # 1 while a call uses the slot
JOB_OPEN = 1  # 1 while workers may join
JOB_KERNEL = 2
JOB_THREADS = 3
JOB_CHUNK = 4
JOB_BUFS = 5
JOB_SCRATCH = 6
JOB_STRIDE = 7
JOB_RANGES = 8
JOB_SEATS = 9  # address of the seats of this step's stamp, 0 for none
JOB_SEAT_COUNT = 10
JOB_INSIDE = 16  # workers that joined or are about to look whether they may

# -- tuning --------------------------------------------------------------------------------------
SPIN_NS = 200_000  # an idle worker spins this long before it sleeps
SPINS_ALONE = 300  # spins (10-20 us) before each further one also offers the core to others
POLL_NS = 50_000_000  # between two looks for signals
POLL_STEPS = 16  # small steps between two looks at the clock
CHUNKS_PER_THREAD = 16  # a thread's range goes in so many pieces, so that others can help
MOVE_TILE = 1 << 18  # bytes of one tile of COPY and ZERO
MOVE_PARALLEL = 1 << 20  # bytes from which they run parallel

# -- CPython and NumPy objects: which 64-bit word of the object holds what (3.11 to 3.13) ---------
TUPLE_SIZE = 2
TUPLE_ITEMS = 3
ARRAY_DATA = 2
