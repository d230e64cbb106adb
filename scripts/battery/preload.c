/* Fails the n-th call of one function of the C library, by the variables
 *
 *     BATTERY_CALL   the function: write, open, read, rename, fsync, mmap, ftruncate, mkdir, unlink, stat, readdir, flock, thread,
 *                    memory (allocations of 64 KiB and more)
 *     BATTERY_AT     the number of the call, from 1
 *     BATTERY_ERROR  the error's number; 0: half the bytes are read or written, and no error
 *     BATTERY_STAYS  1: all later calls fail too, as on a disk that is full
 *     BATTERY_COUNT  a file that gets the number of calls of each function at the end
 *
 * Calls of paths below /proc, /sys, /dev and /etc are not counted: they ask about the machine.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LARGE = 64 << 10 };

/* In the order of NAMES. */
enum call { WRITE, OPEN, READ, RENAME, FSYNC, MMAP, FTRUNCATE, MKDIR, UNLINK, STAT, READDIR, FLOCK, THREAD, MEMORY, CALLS };
static const char *const NAMES[CALLS] = {"write",  "open",   "read", "rename",  "fsync", "mmap",   "ftruncate",
                                         "mkdir",  "unlink", "stat", "readdir", "flock", "thread", "memory"};

static int chosen = -1, error_number, stays;
static long at;
static atomic_long counts[CALLS];
static const char *count_file;

__attribute__((constructor)) static void begin(void)
{
    const char *name = getenv("BATTERY_CALL");
    const char *number = getenv("BATTERY_ERROR"), *nth = getenv("BATTERY_AT");
    at = nth ? atol(nth) : 0;
    error_number = number ? atoi(number) : EIO;
    stays = getenv("BATTERY_STAYS") != NULL;
    count_file = getenv("BATTERY_COUNT");
    for (int i = 0; name && i < CALLS; i++)
        if (strcmp(name, NAMES[i]) == 0)
            chosen = i;
}

__attribute__((destructor)) static void end(void)
{
    FILE *file = count_file ? fopen(count_file, "w") : NULL;
    if (!file)
        return;
    /* Opening and writing this file are calls too, but come after the others. */
    for (int i = 0; i < CALLS; i++)
        fprintf(file, "%s %ld\n", NAMES[i], (long)counts[i]);
    fclose(file);
}

/* Whether this call is one that fails. */
static int due(enum call call)
{
    long number = atomic_fetch_add(&counts[call], 1) + 1;
    return chosen == (int)call && (number == at || (stays && number > at));
}

static int about_the_machine(const char *path)
{
    static const char *const roots[] = {"/proc", "/sys", "/dev", "/etc"};
    for (int i = 0; i < 4; i++)
        if (path && strncmp(path, roots[i], strlen(roots[i])) == 0)
            return 1;
    return 0;
}

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))
#define FAIL_IF_DUE(call, value)   \
    do {                           \
        if (due(call)) {           \
            errno = error_number;  \
            return value;          \
        }                          \
    } while (0)

ssize_t write(int file, const void *bytes, size_t count)
{
    /* Standard output and error are another matter: see outputs.py. */
    if (file > STDERR_FILENO && due(WRITE)) {
        if (error_number) {
            errno = error_number;
            return -1;
        }
        count = (count + 1) / 2;
    }
    return REAL(write)(file, bytes, count);
}

ssize_t read(int file, void *bytes, size_t count)
{
    if (due(READ)) {
        if (error_number) {
            errno = error_number;
            return -1;
        }
        count = (count + 1) / 2;
    }
    return REAL(read)(file, bytes, count);
}

static int mode_of(int flags, va_list more)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;
}

#define OPEN_AS(name)                          \
    int name(const char *path, int flags, ...) \
    {                                          \
        va_list more;                          \
        va_start(more, flags);                 \
        int mode = mode_of(flags, more);       \
        va_end(more);                          \
        if (!about_the_machine(path))          \
            FAIL_IF_DUE(OPEN, -1);             \
        return REAL(name)(path, flags, mode);  \
    }
OPEN_AS(open)
OPEN_AS(open64)

DIR *opendir(const char *path)
{
    if (!about_the_machine(path))
        FAIL_IF_DUE(OPEN, NULL);
    return REAL(opendir)(path);
}

struct dirent64 *readdir64(DIR *folder)
{
    FAIL_IF_DUE(READDIR, NULL);
    return REAL(readdir64)(folder);
}

int rename(const char *from, const char *to)
{
    FAIL_IF_DUE(RENAME, -1);
    return REAL(rename)(from, to);
}

int fsync(int file)
{
    FAIL_IF_DUE(FSYNC, -1);
    return REAL(fsync)(file);
}

int fdatasync(int file)
{
    FAIL_IF_DUE(FSYNC, -1);
    return REAL(fdatasync)(file);
}

void *mmap64(void *where, size_t length, int protection, int flags, int file, off64_t offset)
{
    /* Others are the memory of stacks. */
    if (file >= 0)
        FAIL_IF_DUE(MMAP, MAP_FAILED);
    return REAL(mmap64)(where, length, protection, flags, file, offset);
}

int ftruncate64(int file, off64_t length)
{
    FAIL_IF_DUE(FTRUNCATE, -1);
    return REAL(ftruncate64)(file, length);
}

int mkdir(const char *path, mode_t mode)
{
    FAIL_IF_DUE(MKDIR, -1);
    return REAL(mkdir)(path, mode);
}

int unlink(const char *path)
{
    FAIL_IF_DUE(UNLINK, -1);
    return REAL(unlink)(path);
}

int statx(int folder, const char *path, int flags, unsigned mask, struct statx *out)
{
    if (!about_the_machine(path))
        FAIL_IF_DUE(STAT, -1);
    return REAL(statx)(folder, path, flags, mask, out);
}

int flock(int file, int operation)
{
    FAIL_IF_DUE(FLOCK, -1);
    return REAL(flock)(file, operation);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument)
{
    if (due(THREAD))
        return error_number;
    return REAL(pthread_create)(thread, attributes, body, argument);
}

/* dlsym allocates itself, so these call the C library by the names that it has for them. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);

void *malloc(size_t size)
{
    if (size >= LARGE)
        FAIL_IF_DUE(MEMORY, NULL);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    if (size && count >= LARGE / size)
        FAIL_IF_DUE(MEMORY, NULL);
    return __libc_calloc(count, size);
}

void *realloc(void *block, size_t size)
{
    if (size >= LARGE)
        FAIL_IF_DUE(MEMORY, NULL);
    return __libc_realloc(block, size);
}

int posix_memalign(void **block, size_t alignment, size_t size)
{
    if (size >= LARGE && due(MEMORY))
        return ENOMEM;
    *block = __libc_memalign(alignment, size);
    return *block ? 0 : ENOMEM;
}
