// Runs blocks. A block's threads are fibers that run until they wait for others; the last thread to reach a barrier or a
// warp's meeting resumes the others, in the launch's order. A thread that never waits costs no switch.

static uint64_t next_random(uint64_t &state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void shuffle(Worker *w, unsigned *list, unsigned count) {
    if (w->launch->call->order != SHUFFLED) return;
    for (unsigned i = count; i > 1; i--) std::swap(list[i - 1], list[next_random(w->random) % i]);
}

static void set_current(Worker *w, unsigned fiber) {
    w->current = fiber;
    w->fibers[fiber].state = RUNNING;
    emu_thread.thread = {fiber, 0, 0};
}

static void make_ready(Worker *w, unsigned fiber) {
    w->fibers[fiber].state = READY;
    w->ready[w->ready_count++] = fiber;
}

// Makes these fibers ready: the list is taken from its end.
static void make_all_ready(Worker *w, const unsigned *fibers, unsigned count) {
    unsigned begin = w->ready_count;
    bool descending = w->launch->call->order == DESCENDING;
    for (unsigned i = 0; i < count; i++) make_ready(w, fibers[descending ? i : count - 1 - i]);
    shuffle(w, w->ready + begin, count);
}

static void fiber_main();
static void finish_tma(Worker *w);

// Goes on with the next fiber that may run, or with the scheduler if there is none.
static void run_next(Worker *w, void **save) {
    if (w->expired) emu_fail("ran longer than %g s", w->launch->call->seconds);
    while (!w->ready_count && !w->tma.empty()) finish_tma(w);  // copies land as late as they may
    if (!w->ready_count) return emu_switch(save, w->scheduler_sp);
    unsigned next = w->ready[--w->ready_count];
    Fiber &f = w->fibers[next];
    if (f.state == FRESH) {
        f.stack = w->free_stacks[--w->free_count];
        // Stacks begin at different places of their pages: all at one would compete for the same cache lines.
        f.sp = fresh_stack(f.stack + STACK - 256 - next % 61 * 192, fiber_main);
    }
    set_current(w, next);
    if (save != &f.sp) emu_switch(save, f.sp);
}

static void wait_here(Worker *w, State state, EmuPlace at) {
    Fiber &f = w->fibers[w->current];
    f.state = state;
    f.at = at;
    run_next(w, &f.sp);
}

static void fiber_main() {
    Worker *w = self;
    for (;;) {
        w->launch->call->entry(w->launch->call->arguments);
        Fiber &f = w->fibers[w->current];
        f.state = RETURNED;
        w->live--;
        if (w->expired) emu_fail("ran longer than %g s", w->launch->call->seconds);
        if (w->ready_count && w->fibers[w->ready[w->ready_count - 1]].state == FRESH) {
            unsigned next = w->ready[--w->ready_count];  // it begins on this stack: no switch
            w->fibers[next].stack = f.stack;
            set_current(w, next);
            continue;
        }
        w->free_stacks[w->free_count++] = f.stack;
        void *unused;
        run_next(w, &unused);
    }
}

extern "C" void emu_syncthreads(EmuPlace at) {
    Worker *w = self;
    if (w->live != w->threads) {
        emu_fail("__syncthreads at %s:%d after %u threads of the block have returned", at.file, at.line, w->threads - w->live);
    }
    if (w->at_barrier && !same(w->barrier_at, at)) {
        emu_fail("divergent __syncthreads: %s:%d here, %s:%d in other threads", at.file, at.line, w->barrier_at.file,
                 w->barrier_at.line);
    }
    w->barrier_at = at;
    if (++w->at_barrier == w->threads) {
        w->at_barrier = 0;
        order_barrier(w);
        w->ready_count = w->threads;
        bool descending = w->launch->call->order == DESCENDING;
        for (unsigned i = 0; i < w->threads; i++) {
            w->ready[i] = descending ? i : w->threads - 1 - i;
            w->fibers[i].state = READY;
        }
        shuffle(w, w->ready, w->threads);
        return run_next(w, &w->fibers[w->current].sp);
    }
    wait_here(w, AT_BARRIER, at);
}

extern "C" void emu_named_sync(int id, int threads, EmuPlace at) {
    Worker *w = self;
    if (id < 1 || id > 15) emu_fail("named_sync at %s:%d: barrier %d is not in 1..15", at.file, at.line, id);
    NamedBarrier &b = w->named[id];
    if (threads % 32 || threads < 32 || threads > (int)w->threads) {
        emu_fail("named_sync at %s:%d: %d threads in a block of %u", at.file, at.line, threads, w->threads);
    }
    if (!b.waiting.empty() && b.expected != (unsigned)threads) {
        emu_fail("named_sync at %s:%d: %d threads here, %u in other threads", at.file, at.line, threads, b.expected);
    }
    b.expected = threads;
    b.waiting.push_back(w->current);
    if (b.waiting.size() < b.expected) return wait_here(w, AT_BARRIER, at);
    std::vector<unsigned> met;
    met.swap(b.waiting);
    order_threads(w, met.data(), met.size());
    met.pop_back();
    make_all_ready(w, met.data(), met.size());
}

extern "C" void emu_warp(EmuWarpFunction function, unsigned mask, void *mine, EmuPlace at) {
    Worker *w = self;
    unsigned lane = w->current & 31, first = w->current & ~31u;
    Warp &warp = w->warps[w->current >> 5];
    unsigned wanted = mask & warp.exist;
    if (!(mask >> lane & 1)) emu_fail("%s:%d: the calling lane is not in the mask %#x", at.file, at.line, mask);
    if (!warp.have) {
        warp.function = function;
        warp.mask = wanted;
        warp.at = at;
    } else if (warp.function != function || warp.mask != wanted) {
        emu_fail("lanes of a warp meet at different places: %s:%d here, %s:%d in others", at.file, at.line, warp.at.file,
                 warp.at.line);
    }
    warp.slots[lane] = mine;
    warp.have |= 1u << lane;
    if (warp.have != warp.mask) return wait_here(w, IN_WARP, at);
    unsigned present = warp.mask, others[32], count = 0;
    warp.have = 0;
    for (unsigned l = 0; l < 32; l++) {
        if (present >> l & 1 && l != lane) others[count++] = first + l;
    }
    if (function) {
        function(warp.slots, present);
    } else {  // __syncwarp alone orders memory
        others[count] = w->current;
        order_threads(w, others, count + 1);
    }
    make_all_ready(w, others, count);
    if (w->expired) emu_fail("ran longer than %g s", w->launch->call->seconds);
}

extern "C" void emu_syncwarp(unsigned mask, EmuPlace at) { emu_warp(nullptr, mask, nullptr, at); }

// ---- Static shared memory: one layout for all kernels of a module, 64 bytes between arrays.
static std::mutex statics_mutex;
static std::atomic<unsigned> statics_used{64};  // by the module that uses most

extern "C" unsigned emu_place_shared(unsigned *offset, unsigned *module_end, unsigned bytes, unsigned align) {
    if (bytes > 48 << 10) emu_fail("a static shared array of %u bytes; a block has 48 KiB", bytes);
    std::lock_guard<std::mutex> lock(statics_mutex);
    if (*offset) return *offset;  // another worker was here
    if (align < 16) align = 16;
    unsigned begin = *module_end ? *module_end : 64, at = (begin + align - 1) & ~(align - 1), end = at + bytes + 64;
    if (end > STATICS) emu_fail("static shared arrays of one module fill more than %zu bytes", STATICS);
    if (end > statics_used) {
        memset(emu_thread.statics + statics_used, 0xff, end - statics_used);
        statics_used = end;
    }
    *module_end = end;
    return *offset = at;
}

// ---- Blocks.
static void report_deadlock(Worker *w) {
    if (w->launch->failed || !w->live) return;
    for (unsigned i = 0; i < w->threads; i++) {
        Fiber &f = w->fibers[i];
        if (f.state < AT_BARRIER || f.state == RETURNED) continue;
        w->current = i;
        record_failure("deadlock: %u of %u threads are left; this one waits at %s:%d for threads that have returned or wait "
                       "elsewhere", w->live, w->threads, f.at.file, f.at.line);
        return;
    }
}

static void run_block(Worker *w, uint64_t block) {
    const EmuLaunch &call = *w->launch->call;
    w->block = block;
    w->block_serial++;
    w->threads = w->live = call.threads;
    w->at_barrier = 0;
    w->tma.clear();
    w->mbar_waiters.clear();
    for (auto &group : w->warpgroups) {
        group.have = group.group = 0;
        group.fenced = false;
        group.queue.clear();
    }
    for (auto &barrier : w->named) barrier.waiting.clear();
    w->random = ((call.seed + 1) * 0x9E3779B97F4A7C15ull ^ (block + 1) * 0xD1B54A32D192ED03ull) | 1;
    w->free_count = MAX_THREADS;
    for (unsigned i = 0; i < MAX_THREADS; i++) w->free_stacks[i] = w->stacks + (MAX_THREADS - 1 - i) * STACK;

    // Dynamic shared memory begins at a multiple of 1024, as kernels ask for it, and ends within 1024 bytes of a guard page.
    byte *end = w->arena + STATICS + DYNAMICS;
    w->dynamics = end - (((size_t)call.shared + 1023) & ~(size_t)1023);
    memset(w->dynamics, 0xff, end - w->dynamics);
    memset(w->arena, 0xff, statics_used);
    emu_thread.statics = w->arena;
    emu_thread.dynamics = w->dynamics;
    unsigned x = call.blocks[0], y = call.blocks[1];
    emu_thread.block = {(unsigned)(block % x), (unsigned)(block / x % y), (unsigned)(block / x / y)};
    emu_thread.block_dim = {call.threads, 1, 1};
    emu_thread.grid_dim = {call.blocks[0], call.blocks[1], call.blocks[2]};

    for (unsigned i = 0; i < w->threads; i++) {
        Fiber &f = w->fibers[i];
        f.state = FRESH;
        f.group = 0;
        f.copies.clear();
        w->ready[i] = call.order == DESCENDING ? i : w->threads - 1 - i;
    }
    for (unsigned i = 0; i * 32 < w->threads; i++) {
        unsigned lanes = w->threads - i * 32;
        w->warps[i].have = 0;
        w->warps[i].exist = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    }
    w->ready_count = w->threads;
    shuffle(w, w->ready, w->threads);
    order_block(w);
    run_next(w, &w->scheduler_sp);  // comes back when nobody can run, or one has failed
    report_deadlock(w);
    size_t tail = end - w->dynamics - call.shared;
    if (!is_pattern(end - tail, tail)) {
        record_failure("wrote past the end of %u bytes of dynamic shared memory", call.shared);
    }
    w->current = NOBODY;
}
