// Asynchronous hardware: cp.async, mbarriers, TMA. A copy lands at once (eager), or as late as it may: then a wait that is
// missing or too weak shows in the values.

static bool in_shared(const Worker *w, const byte *p, size_t bytes) {
    return p >= w->arena && p + bytes <= w->dynamics + w->launch->call->shared;
}

extern "C" unsigned emu_shared_address(const void *p) { return (unsigned)((byte *)p - self->dynamics); }

// ---- cp.async
static void land(const AsyncCopy &copy) {
    check(copy.dst, copy.bytes, WRITE, copy.at);
    if (copy.pred) {
        memcpy(copy.dst, copy.src, copy.bytes);
    } else {
        memset(copy.dst, 0, copy.bytes);
    }
}

extern "C" void emu_cp_async(void *dst, const void *src, unsigned bytes, int pred, EmuPlace at) {
    Worker *w = self;
    if ((uintptr_t)dst % bytes || (pred && (uintptr_t)src % bytes)) {
        emu_fail("cp.async at %s:%d: an address is not a multiple of %u", at.file, at.line, bytes);
    }
    if (!in_shared(w, (byte *)dst, bytes)) {
        emu_fail("cp.async at %s:%d: the destination is not in the block's shared memory", at.file, at.line);
    }
    if (pred) check(src, bytes, READ, at);
    AsyncCopy copy{(byte *)dst, (const byte *)src, bytes, w->fibers[w->current].group, pred != 0, at};
    if (w->launch->call->eager) return land(copy);
    check(dst, bytes, ISSUE_COPY, at);
    if (pred) (void)*(volatile const byte *)src;  // an address that faults does so here
    w->fibers[w->current].copies.push_back(copy);
}

extern "C" void emu_cp_async_commit() { self->fibers[self->current].group++; }

extern "C" void emu_cp_async_wait(unsigned newest, EmuPlace) {
    Fiber &f = self->fibers[self->current];
    size_t kept = 0;
    for (size_t i = 0; i < f.copies.size(); i++) {
        AsyncCopy copy = f.copies[i];
        if (copy.group + newest < f.group) {
            land(copy);
        } else {
            f.copies[kept++] = copy;
        }
    }
    f.copies.resize(kept);
}

// ---- mbarrier
static Mbar *mbar_at(uint64_t *bar, const char *what, EmuPlace at) {
    if ((uintptr_t)bar % 8 || !in_shared(self, (byte *)bar, 8)) {
        emu_fail("%s at %s:%d: the barrier is not 8 aligned bytes of shared memory", what, at.file, at.line);
    }
    return (Mbar *)bar;
}

// Ends the phase if nothing is missing, and resumes the fibers that waited for it.
static void advance(Worker *w, Mbar *bar) {
    if (bar->pending || bar->transactions) return;
    bar->phase ^= 1;
    bar->pending = bar->expected;
    order_complete(w, bar);
    size_t kept = 0;
    for (MbarWaiter &waiter : w->mbar_waiters) {
        if (waiter.bar == bar && bar->phase != waiter.parity) {
            order_wait(w, waiter.fiber, bar);
            make_ready(w, waiter.fiber);
        } else {
            w->mbar_waiters[kept++] = waiter;
        }
    }
    w->mbar_waiters.resize(kept);
}

extern "C" void emu_mbar(uint64_t *address, int op, unsigned n, EmuPlace at) {
    Worker *w = self;
    Mbar *bar = mbar_at(address, "mbarrier", at);
    if (op == EMU_MBAR_INIT) {
        if (n < 1 || n > MAX_THREADS) emu_fail("mbar_init at %s:%d: a count of %u", at.file, at.line, n);
        *bar = Mbar{(uint16_t)n, (uint16_t)n, 0, 0};
        w->mbar_clocks.erase(bar);
        return;
    }
    if (*address == ~(uint64_t)0) emu_fail("mbarrier at %s:%d: used before mbar_init", at.file, at.line);
    if (!bar->pending) emu_fail("mbarrier at %s:%d: more arrivals than its count of %u", at.file, at.line, bar->expected);
    if (op == EMU_MBAR_EXPECT) bar->transactions += (int)n;
    order_arrive(w, bar);
    bar->pending--;
    advance(w, bar);
}

extern "C" void emu_mbar_wait(uint64_t *address, unsigned parity, EmuPlace at) {
    Worker *w = self;
    Mbar *bar = mbar_at(address, "mbar_wait", at);
    if (parity > 1) emu_fail("mbar_wait at %s:%d: a parity of %u", at.file, at.line, parity);
    if (*address == ~(uint64_t)0) emu_fail("mbar_wait at %s:%d: before mbar_init", at.file, at.line);
    if (bar->phase != parity) return order_wait(w, w->current, bar);
    w->mbar_waiters.push_back({w->current, bar, parity});
    wait_here(w, AT_MBAR, at);
}

// ---- TMA: boxes of 2-byte elements, to rows of at most 128 bytes with the 128-byte swizzle.
static size_t box_bytes(const TMap &map) {
    size_t bytes = 2;
    for (unsigned d = 0; d < map.rank; d++) bytes *= map.box[d];
    return bytes;
}

static void land_tma(Worker *w, const TmaCopy &copy) {
    const TMap &map = copy.map;
    size_t row_bytes = map.box[0] * 2, rows = box_bytes(map) / row_bytes;
    unsigned at[5] = {};  // within the box; dimension 0 is done by rows
    for (size_t row = 0; row < rows; row++) {
        const byte *source = (const byte *)map.base;
        bool inside = true;
        for (unsigned d = 1; d < map.rank; d++) {
            int64_t i = (int64_t)copy.start[d] + at[d];
            inside = inside && i >= 0 && i < (int64_t)map.dims[d];
            if (inside) source += (size_t)i * map.strides[d - 1];
        }
        for (unsigned column = 0; column < map.box[0]; column++) {
            size_t linear = row * row_bytes + column * 2;
            byte *to = copy.dst + (linear ^ (linear >> 7 & 7) << 4);
            int64_t x = (int64_t)copy.start[0] + column;
            if (inside && x >= 0 && x < (int64_t)map.dims[0]) {
                memcpy(to, source + x * 2, 2);
            } else {
                memset(to, 0, 2);
            }
        }
        for (unsigned d = 1; d < map.rank && ++at[d] == map.box[d]; d++) at[d] = 0;
    }
    order_tma(w, copy);
    copy.bar->transactions -= (int)box_bytes(map);
    advance(w, copy.bar);
}

static void finish_tma(Worker *w) {
    size_t i = w->launch->call->order == SHUFFLED ? next_random(w->random) % w->tma.size() : 0;
    TmaCopy copy = w->tma[i];
    w->tma.erase(w->tma.begin() + i);
    land_tma(w, copy);
}

extern "C" void emu_tma_load(void *dst, const TMap *map, const int *start, int rank, uint64_t *bar, EmuPlace at) {
    Worker *w = self;
    if (map->magic != EMU_MAP_MAGIC) emu_fail("TMA at %s:%d: not a tensor map of this device", at.file, at.line);
    if ((int)map->rank != rank) {
        emu_fail("TMA at %s:%d: %d coordinates for a map of %u dimensions", at.file, at.line, rank, map->rank);
    }
    TmaCopy copy{(byte *)dst, *map, {}, mbar_at(bar, "TMA", at), 0, at};
    memcpy(copy.start, start, rank * sizeof *start);
    size_t bytes = box_bytes(*map);
    if (!in_shared(w, copy.dst, bytes) || copy.dst < w->dynamics) {
        emu_fail("TMA at %s:%d: the box of %zu bytes does not fit dynamic shared memory there", at.file, at.line, bytes);
    }
    if ((copy.dst - w->dynamics) % 1024) {
        emu_fail("TMA at %s:%d: the destination is not a multiple of 1024, which the swizzle needs", at.file, at.line);
    }
    size_t extent = map->dims[0] * 2;
    for (int d = 1; d < rank; d++) extent += (map->dims[d] - 1) * map->strides[d - 1];
    if (!w->launch->context->range((void *)map->base, extent)) {
        emu_fail("TMA at %s:%d: the tensor of the map is not within one allocation", at.file, at.line);
    }
    int64_t announced = copy.bar->transactions;
    for (const TmaCopy &other : w->tma) announced -= other.bar == copy.bar ? (int64_t)box_bytes(other.map) : 0;
    if (announced < (int64_t)bytes) {
        emu_fail("TMA at %s:%d: %zu bytes, of which mbar_expect_tx has announced %ld", at.file, at.line, bytes, (long)announced);
    }
    copy.clock = ++w->tma_clock;
    check_tma_issue(w, copy.dst, bytes, copy.clock, at);
    memset(copy.dst, 0xff, bytes);  // undefined until the barrier's phase ends
    if (w->launch->call->eager) {
        land_tma(w, copy);
    } else {
        w->tma.push_back(copy);
    }
}
