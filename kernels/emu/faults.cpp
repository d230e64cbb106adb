// From a fault to an error of the launch: what a kernel did, where, in which block and thread. The process lives on.
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static void record_message(const char *format, va_list values) {
    Worker *w = self;
    std::lock_guard<std::mutex> lock(w->launch->mutex);
    if (w->launch->failed.exchange(1)) return;
    EmuFailure &failure = *w->launch->failure;
    failure.checked = 1;
    failure.block[0] = emu_thread.block.x, failure.block[1] = emu_thread.block.y, failure.block[2] = emu_thread.block.z;
    failure.thread = w->current;
    vsnprintf(failure.message, sizeof failure.message, format, values);
    Dl_info info;
    if (w->access_pc && dladdr(w->access_pc, &info) && info.dli_fname) {
        snprintf(failure.module, sizeof failure.module, "%s", info.dli_fname);
        failure.offset = (byte *)w->access_pc - (byte *)info.dli_fbase - 1;  // of the call, not of what follows it
    }
}

static void record_failure(const char *format, ...) {
    va_list values;
    va_start(values, format);
    record_message(format, values);
    va_end(values);
}

extern "C" void emu_fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    record_message(format, values);
    va_end(values);
    void *unused;
    emu_switch(&unused, self->scheduler_sp);
    __builtin_unreachable();
}

// ---- Modules: where their code and constants lie.
struct Range {
    uintptr_t begin, end;
};
static std::mutex modules_mutex;
static Range modules[4096];
static std::atomic<unsigned> module_count{0};  // read by signal handlers: no lock, entries never change

extern "C" int emu_register_module(const void *begin, const void *end) {
    std::lock_guard<std::mutex> lock(modules_mutex);
    unsigned n = module_count;
    if (n == sizeof modules / sizeof *modules) return 1;
    modules[n] = {(uintptr_t)begin, (uintptr_t)end};
    module_count = n + 1;
    return 0;
}

static bool in_module(const void *p) {
    for (unsigned i = module_count; i-- > 0;) {
        if ((uintptr_t)p >= modules[i].begin && (uintptr_t)p < modules[i].end) return true;
    }
    return false;
}

// ---- Signals. The handler does no more than to let the thread go on in `explain_fault`, on a stack that is whole.
static __thread struct Fault {
    int signal;
    byte *address, *pc;
} fault __attribute__((tls_model("initial-exec")));
static int watchdog_signal;
constexpr unsigned FIRINGS = 5;  // of the watchdog, see below
static struct sigaction old_actions[65];

static void explain_fault() {
    Worker *w = self;
    byte *p = fault.address;
    w->access_pc = fault.pc + 1;
    if (fault.signal == watchdog_signal) emu_fail("ran longer than %g s", w->launch->call->seconds);
    if (fault.signal == SIGILL || fault.signal == SIGTRAP) {
        emu_fail("a vector access that is not aligned to its size, or an array index out of range");
    }
    if (p >= w->arena && p < w->arena + ARENA) {
        emu_fail("access at offset %ld of %u bytes of dynamic shared memory", (long)(p - w->dynamics), w->launch->call->shared);
    }
    if (p >= w->stacks && p < w->stacks + MAX_THREADS * STACK) emu_fail("stack overflow: local arrays of more than 60 KiB");
    if (p >= device_begin && p < device_end) {
        Allocation *a = w->launch->context->find(p);
        if (a) emu_fail("access at offset %ld of a device allocation of %zu bytes", (long)(p - a->base), a->bytes);
    }
    emu_fail("access to address %p, where no device memory is", (void *)p);
}

static void on_signal(int signal, siginfo_t *info, void *context) {
    Worker *w = self;
    ucontext_t *u = (ucontext_t *)context;
#if defined(__x86_64__)
    byte *pc = (byte *)u->uc_mcontext.gregs[REG_RIP];
#else
    byte *pc = (byte *)u->uc_mcontext.pc;
#endif
    if (signal == watchdog_signal) {
        if (!w || w->current == NOBODY) return;
        if (w->watched != w->block_serial) {
            w->watched = w->block_serial;
            w->firings = 0;
        }
        if (++w->firings < FIRINGS) return;
        w->expired = 1;              // for the runtime, which may hold a lock at this moment,
        if (!in_module(pc)) return;  // or for this handler when it comes again
    } else if (!w || w->current == NOBODY) {
        struct sigaction &old = old_actions[signal];
        if (old.sa_flags & SA_SIGINFO && old.sa_sigaction) return old.sa_sigaction(signal, info, context);
        ::signal(signal, SIG_DFL);
        return;  // the instruction is run again, and ends the process
    }
    fault = {signal, (byte *)info->si_addr, pc};
    uintptr_t stack = (uintptr_t)(w->fault_stack + STACK - 64) & ~(uintptr_t)15;
#if defined(__x86_64__)
    u->uc_mcontext.gregs[REG_RIP] = (greg_t)explain_fault;
    u->uc_mcontext.gregs[REG_RSP] = (greg_t)(stack - 8);
#else
    u->uc_mcontext.pc = (uint64_t)explain_fault;
    u->uc_mcontext.sp = (uint64_t)stack;
#endif
}

static void prepare_signals() {
    watchdog_signal = SIGRTMAX - 2;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART;
    for (int signal : {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, watchdog_signal}) sigaction(signal, &action, &old_actions[signal]);
}

// ---- The watchdog: a timer of this thread's CPU time, so that a busy machine does not count. It runs on between launches, as
// setting it anew would cost more than a small block; a block that it meets FIRINGS times has run too long.
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif
static __thread pid_t this_thread __attribute__((tls_model("initial-exec")));

static void prepare_watchdog(Worker *w, double seconds) {
    w->expired = 0;
    w->firings = 0;
    if (!this_thread) this_thread = (pid_t)gettid();
    if (w->timer_thread == this_thread && w->timer_seconds == seconds) return;
    if (w->timer_thread) timer_delete(w->timer);
    w->timer_thread = 0;
    sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = watchdog_signal;
    event.sigev_notify_thread_id = this_thread;
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &w->timer)) return;
    w->timer_thread = this_thread;
    w->timer_seconds = seconds;
    double step = seconds / (FIRINGS - 1);
    itimerspec when;
    when.it_interval.tv_sec = (time_t)step;
    when.it_interval.tv_nsec = (long)((step - (double)(time_t)step) * 1e9);
    when.it_value = when.it_interval;
    timer_settime(w->timer, 0, &when, nullptr);
}
