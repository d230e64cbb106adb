// The checker: exact bounds, reads of what was never written, and races, with the line at fault. Kernels are compiled with
// -fsanitize=thread, whose calls come here instead of to a thread sanitizer.
//
// Order is that of vector clocks. Within an epoch (between two __syncthreads) a thread counts its releases in its own clock, and
// keeps in its row the latest clock of every other thread that it knows of. An access is ordered before the running thread if
// a __syncthreads lies between, or the thread's row knows its clock. __syncwarp and named_sync join rows; an mbarrier hands
// over the rows of those who arrived to those who wait. TMA, and the wgmma of each warpgroup, count as threads too.

constexpr unsigned WARPGROUPS = MAX_THREADS / 128;
static unsigned row_length(const Worker *w) { return w->threads + 1 + WARPGROUPS; }
static unsigned tma_agent(const Worker *w) { return w->threads; }
static unsigned wgmma_agent(const Worker *w, unsigned thread) { return w->threads + 1 + thread / 128; }
static uint32_t *row(Worker *w, unsigned thread) { return w->clocks + (size_t)thread * row_length(w); }
constexpr uint16_t ATOMIC = 0xffff;

static void join(uint32_t *to, const uint32_t *from, unsigned count) {
    for (unsigned i = 0; i < count; i++) to[i] = to[i] > from[i] ? to[i] : from[i];
}

static void order_block(Worker *w) {
    if (!checking(w)) return;
    w->epoch = w->first_epoch = next_epoch++;
    if (!w->clocks) w->clocks = (uint32_t *)map_zeros((MAX_THREADS + 1 + WARPGROUPS) * MAX_THREADS * sizeof(uint32_t));
    if (!w->cells) w->cells = (Cell *)map_zeros(ARENA * sizeof(Cell));
    memset(w->clocks, 0, (size_t)w->threads * row_length(w) * sizeof(uint32_t));
    for (unsigned t = 0; t < w->threads; t++) row(w, t)[t] = 1;
    memset(w->ordered_by_mbar, 0, sizeof w->ordered_by_mbar);
    memset(w->proxy_clock, 0, sizeof w->proxy_clock);
    w->mbar_clocks.clear();
    w->tma_clock = w->wgmma_clock = 0;
}

static void order_barrier(Worker *w) {
    if (!checking(w)) return;
    w->epoch = next_epoch++;
    // TMA and wgmma continue over a barrier, so their entries stay.
    for (unsigned agent = w->threads; agent < row_length(w); agent++) {
        uint32_t latest = 0;
        for (unsigned t = 0; t < w->threads; t++) latest = std::max(latest, row(w, t)[agent]);
        for (unsigned t = 0; t < w->threads; t++) row(w, t)[agent] = latest;
    }
    memset(w->ordered_by_mbar, 0, sizeof w->ordered_by_mbar);
}

static void order_threads(Worker *w, const unsigned *fibers, unsigned count) {
    if (!checking(w)) return;
    uint32_t joined[MAX_THREADS + 1 + WARPGROUPS];
    memset(joined, 0, row_length(w) * sizeof *joined);
    for (unsigned i = 0; i < count; i++) join(joined, row(w, fibers[i]), row_length(w));
    for (unsigned i = 0; i < count; i++) {
        memcpy(row(w, fibers[i]), joined, row_length(w) * sizeof *joined);
        row(w, fibers[i])[fibers[i]]++;
        if (count > 32) w->ordered_by_mbar[fibers[i]] = true;
    }
}

static void order_arrive(Worker *w, Mbar *bar) {
    if (!checking(w)) return;
    auto &clocks = w->mbar_clocks[bar].first;
    clocks.resize(row_length(w));
    join(clocks.data(), row(w, w->current), row_length(w));
    row(w, w->current)[w->current]++;
}

static void order_tma(Worker *w, const TmaCopy &copy) {
    if (!checking(w)) return;
    auto &clocks = w->mbar_clocks[copy.bar].first;
    clocks.resize(row_length(w));
    clocks[tma_agent(w)] = std::max(clocks[tma_agent(w)], copy.clock);
    size_t bytes = box_bytes(copy.map);
    for (size_t i = 0; i < bytes; i++) w->cells[copy.dst - w->arena + i].in_flight = false;
}

static void order_complete(Worker *w, Mbar *bar) {
    if (!checking(w)) return;
    auto &clocks = w->mbar_clocks[bar];
    clocks.first.resize(row_length(w));
    clocks.second.resize(row_length(w));
    join(clocks.second.data(), clocks.first.data(), row_length(w));
}

static void order_wait(Worker *w, unsigned fiber, Mbar *bar) {
    if (!checking(w)) return;
    auto &clocks = w->mbar_clocks[bar].second;
    clocks.resize(row_length(w));
    join(row(w, fiber), clocks.data(), row_length(w));
    w->ordered_by_mbar[fiber] = true;
}

static void order_proxy(Worker *w) {
    if (!checking(w)) return;
    w->proxy_clock[w->current] = row(w, w->current)[w->current]++;
}

static void order_wgmma(Worker *w, unsigned first, uint32_t clock) {
    if (!checking(w) || clock == 0) return;
    for (unsigned t = first; t < first + 128; t++) {
        uint32_t &known = row(w, t)[wgmma_agent(w, first)];
        known = std::max(known, clock);
    }
}

// Returns true if that access, of this block, happened before the present access of `thread`.
static bool is_ordered(Worker *w, const Access &a, unsigned thread) {
    if (a.thread == thread || a.thread == ATOMIC) return true;
    bool agent = a.thread >= w->threads;
    if (!agent && a.epoch < w->epoch) return true;
    return row(w, thread)[a.thread] >= a.clock;
}

// ---- Messages; put together only when there is something to say.
static void name_place(char (&text)[200], Worker *w, const byte *p) {
    if (p >= w->dynamics - 64 && p < w->arena + ARENA) {
        snprintf(text, sizeof text, "offset %ld of %u bytes of dynamic shared memory", (long)(p - w->dynamics),
                 w->launch->call->shared);
    } else if (p >= w->arena && p < w->arena + ARENA) {
        snprintf(text, sizeof text, "static shared memory (offset %ld)", (long)(p - w->arena));
    } else {
        Allocation *a = w->launch->context->find(p);
        snprintf(text, sizeof text, "offset %ld of a device allocation of %zu bytes", (long)(p - a->base), a->bytes);
    }
}

static void name_thread(char (&text)[60], Worker *w, const Access &a) {
    if (a.thread == ATOMIC) {
        snprintf(text, sizeof text, "an atomic");
    } else if (a.thread == tma_agent(w)) {
        snprintf(text, sizeof text, "a TMA copy");
    } else if (a.thread > w->threads) {
        snprintf(text, sizeof text, "a wgmma that has not been waited for");
    } else {
        snprintf(text, sizeof text, "thread %u", a.thread);
    }
}

// The present access to memory, and the thread that makes it.
struct Accessor {
    unsigned thread;
    uint32_t clock;
    Kind kind;
    size_t bytes;
    EmuPlace at;
};

__attribute__((noreturn)) static void fault_at(Worker *w, const Accessor &me, const byte *p, const char *what) {
    char place[200], line[200] = "";
    name_place(place, w, p);
    if (me.at.line) snprintf(line, sizeof line, " (%s:%d)", me.at.file, me.at.line);
    emu_fail("%s: %s of %zu bytes at %s%s", what, me.kind == READ || me.kind == READ_ASYNC ? "read" : "write", me.bytes, place,
             line);
}

__attribute__((noreturn)) static void race_at(Worker *w, const Accessor &me, const byte *p, const char *before,
                                              const Access *other) {
    char what[120], name[60] = "several threads";
    if (other) name_thread(name, w, *other);
    snprintf(what, sizeof what, "race with a %s by %s, with no barrier between", before, name);
    fault_at(w, me, p, what);
}

// ---- Accesses.
static Accessor accessor(Worker *w, Kind kind, size_t bytes, EmuPlace at) {
    return {w->current, row(w, w->current)[w->current], kind, bytes, at};
}

// Keeps that it was read. What is ordered before this read is forgotten: whoever comes after this one comes after that one too.
// Reads by other blocks, from `first` on, stay.
static void note_read(Worker *w, Cell &cell, const Access &read, unsigned thread, uint32_t first) {
    for (Access &old : cell.reads) {
        bool foreign = old.epoch >= first && old.epoch < w->first_epoch;
        if (!foreign && (old.epoch < first || old.thread == read.thread || is_ordered(w, old, thread))) {
            old = read;
            return;
        }
    }
    cell.crowded = true;
    cell.crowd_epoch = w->epoch;
}

// Ends the launch if a write now would race with a read of this block.
static void check_readers(Worker *w, const Cell &cell, const Accessor &me, const byte *p) {
    for (const Access &read : cell.reads) {
        if (read.epoch >= w->first_epoch && !is_ordered(w, read, me.thread)) race_at(w, me, p, "read", &read);
    }
    // Readers that were not kept may be ordered by mbarriers; without those only a barrier of the block orders them.
    if (cell.crowded && cell.crowd_epoch == w->epoch && !w->ordered_by_mbar[me.thread]) race_at(w, me, p, "read", nullptr);
}

static void check_shared(Worker *w, byte *p, const Accessor &me) {
    byte *end = w->dynamics + w->launch->call->shared;
    bool dynamic = p >= w->dynamics - 64;
    if (dynamic ? p < w->dynamics || p + me.bytes > end : p + me.bytes > w->arena + statics_used) {
        fault_at(w, me, p, "out of bounds");
    }
    bool read = me.kind == READ || me.kind == READ_ASYNC;
    for (size_t i = 0; i < me.bytes; i++) {
        Cell &cell = w->cells[p - w->arena + i];
        bool written = cell.write.epoch >= w->first_epoch;
        if (read && !written) fault_at(w, me, p + i, "uninitialised");
        if (read && cell.in_flight) fault_at(w, me, p + i, "not waited for: an asynchronous copy is still to come");
        bool landing = cell.in_flight && cell.write.thread == me.thread;
        if (written && !landing && !is_ordered(w, cell.write, me.thread)) race_at(w, me, p + i, "write", &cell.write);
        if (me.kind == READ) {
            note_read(w, cell, {w->epoch, me.clock, (uint16_t)me.thread}, me.thread, w->first_epoch);
        } else if (!read) {
            check_readers(w, cell, me, p + i);
            cell.write = {w->epoch, me.clock, (uint16_t)me.thread};
            cell.in_flight = me.kind == ISSUE_COPY;
            cell.crowded = false;
        }
    }
}

static void check_global(Worker *w, byte *p, const Accessor &me, bool atomic) {
    Allocation *a = w->launch->context->find(p);
    if (!a) emu_fail("access to %p, where no device memory is", (void *)p);
    if (p + me.bytes > a->base + a->bytes) fault_at(w, me, p, "out of bounds");
    if (!a->cells) a->cells = (Cell *)map_zeros(a->bytes * sizeof(Cell));
    const uint32_t first = w->launch->first_epoch;  // of the launch; w->first_epoch: of this block
    auto foreign = [&](uint32_t epoch) { return epoch >= first && epoch < w->first_epoch; };
    for (size_t i = 0; i < me.bytes; i++) {
        Cell &cell = a->cells[p - a->base + i];
        byte &written = a->written[p - a->base + i];
        if (me.kind == READ && !written) fault_at(w, me, p + i, "uninitialised");
        if (cell.write.epoch >= first && cell.write.thread != ATOMIC) {
            if (foreign(cell.write.epoch)) fault_at(w, me, p + i, "race with a write by another block of this launch");
            if (!is_ordered(w, cell.write, me.thread)) race_at(w, me, p + i, "write", &cell.write);
        }
        if (me.kind == READ) {
            note_read(w, cell, {w->epoch, me.clock, (uint16_t)me.thread}, me.thread, first);
            continue;
        }
        written = 1;
        if (!atomic) {
            if (foreign(cell.reads[0].epoch) || foreign(cell.reads[1].epoch) || (cell.crowded && foreign(cell.crowd_epoch))) {
                fault_at(w, me, p + i, "race with a read by another block of this launch");
            }
            check_readers(w, cell, me, p + i);
        }
        cell.write = {w->epoch, me.clock, atomic ? ATOMIC : (uint16_t)me.thread};
        cell.crowded = false;
    }
}

static void look(Worker *w, byte *p, const Accessor &me, bool atomic) {
    if (p >= w->stacks && p < w->stacks + MAX_THREADS * STACK) return;
    if (p >= w->arena && p < w->arena + ARENA) {
        if (!atomic) return check_shared(w, p, me);
        for (size_t i = 0; i < me.bytes; i++) w->cells[p - w->arena + i].write = {w->epoch, 0, ATOMIC};
        return;
    }
    if (p >= device_begin && p < device_end) return check_global(w, p, me, atomic);
    if (in_module(p) || (p >= (byte *)&emu_thread && p < (byte *)(&emu_thread + 1))) return;
    emu_fail("access to %p, which is memory of the host", (void *)p);
}

static void check(const void *p, size_t bytes, Kind kind, EmuPlace at) {
    Worker *w = self;
    if (checking(w)) look(w, (byte *)p, accessor(w, kind, bytes, at), false);
}

extern "C" void emu_check(const void *p, unsigned bytes, int write, int atomic, EmuPlace at) {
    Worker *w = self;
    if (checking(w)) look(w, (byte *)p, accessor(w, write ? WRITE : READ, bytes, at), atomic != 0);
}

// The thread that issues a copy must come after all who have used its destination.
static void check_tma_issue(Worker *w, byte *p, size_t bytes, uint32_t clock, EmuPlace at) {
    if (!checking(w)) return;
    Accessor me = accessor(w, ISSUE_COPY, bytes, at);
    for (size_t i = 0; i < bytes; i++) {
        Cell &cell = w->cells[p - w->arena + i];
        bool written = cell.write.epoch >= w->first_epoch;
        if (written && !is_ordered(w, cell.write, me.thread)) race_at(w, me, p + i, "write", &cell.write);
        check_readers(w, cell, me, p + i);
        cell.write = {w->epoch, clock, (uint16_t)tma_agent(w)};
        cell.in_flight = true;
        cell.crowded = false;
    }
}

// It is ordered as the thread that issues it, but continues until wgmma_wait.
static void check_wgmma_read(Worker *w, byte *p, size_t bytes, uint32_t clock, EmuPlace at) {
    if (!checking(w)) return;
    check(p, bytes, READ_ASYNC, at);
    Access read{w->epoch, clock, (uint16_t)wgmma_agent(w, w->current)};
    for (size_t i = 0; i < bytes; i++) {
        Cell &cell = w->cells[p - w->arena + i];
        if (cell.write.thread < w->threads && cell.write.clock > w->proxy_clock[cell.write.thread]) {
            emu_fail("wgmma at %s:%d reads what thread %u wrote, with no fence_proxy_async between", at.file, at.line,
                     cell.write.thread);
        }
        note_read(w, cell, read, w->current, w->first_epoch);
    }
}

// ---- What -fsanitize=thread calls.
static void check_instrumented(void *p, size_t bytes, Kind kind, void *pc) {
    Worker *w = self;
    if (!w || w->current == NOBODY || !checking(w) || bytes == 0) return;
    w->access_pc = pc;
    look(w, (byte *)p, accessor(w, kind, bytes, EmuPlace{"", 0}), false);
    w->access_pc = nullptr;
}
#define EMU_ACCESS(name, bytes, kind)                                            \
    extern "C" void __tsan_##name##bytes(void *p) {                              \
        check_instrumented(p, bytes, kind, __builtin_return_address(0));         \
    }
#define EMU_ACCESSES(bytes)                     \
    EMU_ACCESS(read, bytes, READ)               \
    EMU_ACCESS(write, bytes, WRITE)             \
    EMU_ACCESS(unaligned_read, bytes, READ)     \
    EMU_ACCESS(unaligned_write, bytes, WRITE)   \
    EMU_ACCESS(volatile_read, bytes, READ)      \
    EMU_ACCESS(volatile_write, bytes, WRITE)
EMU_ACCESSES(1)
EMU_ACCESSES(2)
EMU_ACCESSES(4)
EMU_ACCESSES(8)
EMU_ACCESSES(16)
extern "C" void __tsan_read_range(void *p, size_t bytes) { check_instrumented(p, bytes, READ, __builtin_return_address(0)); }
extern "C" void __tsan_write_range(void *p, size_t bytes) { check_instrumented(p, bytes, WRITE, __builtin_return_address(0)); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void *) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_atomic_thread_fence(int) {}
extern "C" void __tsan_vptr_update(void **, void *) {}
