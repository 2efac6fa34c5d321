/* Loaded before the C library: writes down which paths a process opens or changes, fails or
 * shortens its reads and writes, and refuses memory. It does nothing before it is armed, by calls
 * from the process itself (shim.py).
 *
 * Only files below a prefix count. All counters are of this process, and atomic: commands have
 * threads. Calls that the C library makes inside itself are not seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
  READ = 1,
  WRITE = 2,
  SYNC = 4,
  NAME = 8
}; /* groups of calls; NAME: open to write, rename, … */

static char prefix[PATH_MAX];
static int log_fd = -1;
static int groups;                 /* which calls fail */
static _Atomic long left;          /* calls until the first failure */
static int error_number, for_ever; /* what fails, and whether all later calls do */
static _Atomic uint64_t shorten;   /* state of the generator of short lengths; 0: whole lengths */
static int shortened;              /* groups that are shortened */
static _Atomic long seen;          /* calls of the groups, since they were armed */

static _Atomic long memory_left = -1; /* allocations until one fails; negative: none does */
static size_t memory_least;           /* bytes that an allocation has to have to count */

void shim_log(int fd, const char* below) {
  snprintf(prefix, sizeof prefix, "%s", below);
  log_fd = fd;
}

void shim_fail(const char* below, int which, long after, int number, int always) {
  snprintf(prefix, sizeof prefix, "%s", below);
  seen = 0;
  left = after;
  error_number = number;
  for_ever = always;
  groups = which;
}

void shim_shorten(const char* below, int which, uint64_t seed) {
  snprintf(prefix, sizeof prefix, "%s", below);
  shorten = seed | 1;
  shortened = which;
}

void shim_memory(long after, size_t least) {
  memory_least = least;
  memory_left = after;
}

void shim_off(void) {
  groups = shortened = 0;
  memory_left = -1;
  log_fd = -1;
}

long shim_seen(void) { return seen; }

#define REAL(name)               \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int active(void) { return log_fd >= 0 || groups || shortened; }

/* The absolute path of a name in an open directory. */
static void path_of(int dir, const char* name, char* out) {
  if (name[0] == '/') {
    snprintf(out, PATH_MAX, "%s", name);
    return;
  }
  char link[64], base[PATH_MAX];
  if (dir == AT_FDCWD)
    snprintf(link, sizeof link, "/proc/self/cwd");
  else
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
  const ssize_t size = readlink(link, base, sizeof base - 1);
  base[size < 0 ? 0 : size] = 0;
  if (snprintf(out, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) out[PATH_MAX - 1] = 0;
}

static int below(const char* path) {
  const size_t size = strlen(prefix);
  return size && !strncmp(path, prefix, size) && (path[size] == '/' || !path[size]);
}

static int fd_below(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return below(path);
}

/* Whether a call fails now; errno is set then. */
static int fails(int group) {
  if (!(groups & group)) return 0;
  seen++;
  const long now = atomic_fetch_sub(&left, 1);
  if (now > 1 || (now < 1 && !for_ever)) return 0;
  errno = error_number;
  return 1;
}

static size_t shorter(int group, size_t size) {
  if (!(shortened & group) || size < 2) return size;
  uint64_t x = shorten;
  x ^= x << 13, x ^= x >> 7, x ^= x << 17;
  shorten = x;
  return 1 + x % size;
}

static int named(char how, int dir, const char* name) {
  if (!active() || !name) return 0;
  char path[PATH_MAX];
  path_of(dir, name, path);
  if (!below(path)) return 0;
  if (log_fd >= 0) {
    char line[PATH_MAX + 4];
    const int size = snprintf(line, sizeof line, "%c %s%c", how, path, 0);
    syscall(SYS_write, log_fd, line, size);
  }
  return how != 'r' && fails(NAME);
}

static char opened(int flags) {
  return flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) ? 'w' : 'r';
}

#define OPEN(name, dir, path_args, call_args)       \
  int name path_args {                              \
    REAL(name);                                     \
    mode_t mode = 0;                                \
    if (flags & (O_CREAT | O_TMPFILE)) {            \
      va_list more;                                 \
      va_start(more, flags);                        \
      mode = va_arg(more, mode_t);                  \
      va_end(more);                                 \
    }                                               \
    if (named(opened(flags), dir, path)) return -1; \
    return real call_args;                          \
  }
OPEN(open, AT_FDCWD, (const char* path, int flags, ...), (path, flags, mode))
OPEN(open64, AT_FDCWD, (const char* path, int flags, ...), (path, flags, mode))
OPEN(openat, dir, (int dir, const char* path, int flags, ...), (dir, path, flags, mode))
OPEN(openat64, dir, (int dir, const char* path, int flags, ...), (dir, path, flags, mode))

#define STREAM(name)                                                          \
  FILE* name(const char* path, const char* mode) {                            \
    REAL(name);                                                               \
    if (named(strpbrk(mode, "wa+") ? 'w' : 'r', AT_FDCWD, path)) return NULL; \
    return real(path, mode);                                                  \
  }
STREAM(fopen)
STREAM(fopen64)

#define NAMED(name, how, dir, path, args, call) \
  int name args {                               \
    REAL(name);                                 \
    if (named(how, dir, path)) return -1;       \
    return real call;                           \
  }
NAMED(mkdir, 'm', AT_FDCWD, path, (const char* path, mode_t mode), (path, mode))
NAMED(mkdirat, 'm', dir, path, (int dir, const char* path, mode_t mode), (dir, path, mode))
NAMED(unlink, 'w', AT_FDCWD, path, (const char* path), (path))
NAMED(unlinkat, 'w', dir, path, (int dir, const char* path, int flags), (dir, path, flags))
NAMED(rmdir, 'w', AT_FDCWD, path, (const char* path), (path))
NAMED(rename, 'w', AT_FDCWD, to, (const char* from, const char* to), (from, to))
NAMED(renameat, 'w', there, to, (int dir, const char* from, int there, const char* to),
      (dir, from, there, to))
NAMED(link, 'w', AT_FDCWD, to, (const char* from, const char* to), (from, to))
NAMED(linkat, 'w', there, to, (int dir, const char* from, int there, const char* to, int flags),
      (dir, from, there, to, flags))
NAMED(symlink, 'w', AT_FDCWD, to, (const char* from, const char* to), (from, to))
NAMED(symlinkat, 'w', dir, to, (const char* from, int dir, const char* to), (from, dir, to))
NAMED(truncate, 'w', AT_FDCWD, path, (const char* path, off_t size), (path, size))
NAMED(chmod, 'w', AT_FDCWD, path, (const char* path, mode_t mode), (path, mode))

#define MOVED(name, group, args, call)          \
  ssize_t name args {                           \
    REAL(name);                                 \
    if ((groups | shortened) && fd_below(fd)) { \
      if (fails(group)) return -1;              \
      size = shorter(group, size);              \
    }                                           \
    return real call;                           \
  }
MOVED(read, READ, (int fd, void* data, size_t size), (fd, data, size))
MOVED(pread, READ, (int fd, void* data, size_t size, off_t at), (fd, data, size, at))
MOVED(pread64, READ, (int fd, void* data, size_t size, off64_t at), (fd, data, size, at))
MOVED(write, WRITE, (int fd, const void* data, size_t size), (fd, data, size))
MOVED(pwrite, WRITE, (int fd, const void* data, size_t size, off_t at), (fd, data, size, at))
MOVED(pwrite64, WRITE, (int fd, const void* data, size_t size, off64_t at), (fd, data, size, at))

#define SYNCED(name, args, call)                          \
  int name args {                                         \
    REAL(name);                                           \
    if (groups && fd_below(fd) && fails(SYNC)) return -1; \
    return real call;                                     \
  }
SYNCED(fsync, (int fd), (fd))
SYNCED(fdatasync, (int fd), (fd))
SYNCED(ftruncate, (int fd, off_t size), (fd, size))
SYNCED(ftruncate64, (int fd, off64_t size), (fd, size))
SYNCED(posix_fallocate, (int fd, off_t at, off_t size), (fd, at, size))

/* Memory. The C library offers its own functions under these names, which need no dlsym. */
extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

static int refused(size_t size) {
  if (memory_left < 0 || size < memory_least) return 0;
  if (atomic_fetch_sub(&memory_left, 1) != 1) return 0;
  memory_left = -1;
  errno = ENOMEM;
  return 1;
}

void* malloc(size_t size) { return refused(size) ? NULL : __libc_malloc(size); }
void* calloc(size_t count, size_t size) {
  return size && count < SIZE_MAX / size && refused(count * size) ? NULL
                                                                  : __libc_calloc(count, size);
}
void* realloc(void* data, size_t size) { return refused(size) ? NULL : __libc_realloc(data, size); }
void* aligned_alloc(size_t alignment, size_t size) {
  return refused(size) ? NULL : __libc_memalign(alignment, size);
}
void* memalign(size_t alignment, size_t size) {
  return refused(size) ? NULL : __libc_memalign(alignment, size);
}
int posix_memalign(void** data, size_t alignment, size_t size) {
  if (refused(size)) return ENOMEM;
  *data = __libc_memalign(alignment, size);
  return *data ? 0 : ENOMEM;
}
