/* Faults at numbered calls, for LD_PRELOAD.
 *
 * Every call of the C library that changes a file below a prefix is counted, and so is every call
 * that reads one, each in a count of its own. At number N of one of the two counts the process is
 * killed, before the call, after it or in the middle of a write, or the call is refused with an
 * errno. Or the file that is read at number N has a bad sector from then on, under all its names:
 * it can be opened, and nothing can be read of it. `faults_arm` says what is to happen; until it is
 * called, nothing does.
 *
 * Not seen: what the C library calls within itself (stdio's writes after fopen), raw system calls,
 * and pages of mapped memory that are changed. Nothing in Hallmark changes files in these ways.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

/* The same numbers are in shim.py. */
enum kind { CHANGE = 0, READ = 1, BAD = 3 }; /* the last is a line of the log, and no count */
enum mode {
    WATCH = 0,
    KILL_BEFORE = 1,
    TEAR = 2,
    KILL_AFTER = 3,
    REFUSE = 4,
    FULL = 5,
    UNREADABLE = 6
};
enum traits { PLAIN = 0, GROWS = 1, WRITES = 2 }; /* takes room on the disk; may be done by half */
enum act { GO, DENY, HALF, HALF_AND_DIE, DIE_AFTER };

static char prefix[PATH_MAX];
static size_t prefix_length;
static enum kind counted;
static enum mode mode;
static long at;
static int code, log_fd = -1;
static long counts[2];
static struct stat bad; /* the file with the bad sector, once there is one */

/* What happens at call `number` of a count; the log, if there is one, gets a line a call. */
void faults_arm(const char *below, int kind, int what, long number, int error, int log)
{
    counts[CHANGE] = counts[READ] = 0;
    counted = kind, mode = what, at = number, code = error, log_fd = log;
    strncpy(prefix, below, sizeof prefix - 1);
    prefix_length = strlen(prefix);
}

/* The same bad sector as in an earlier run: the device and the inode that its log has. */
void faults_bad(unsigned long device, unsigned long inode)
{
    bad.st_dev = device, bad.st_ino = inode, code = EIO;
}

/* A rename that is not numbered. */
int faults_rename(const char *old, const char *new)
{
    return syscall(SYS_renameat, AT_FDCWD, old, AT_FDCWD, new);
}

static _Noreturn void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static int is_below(int dir, const char *path, char *full, size_t size)
{
    if (path && path[0] == '/') {
        snprintf(full, size, "%s", path);
    } else {
        char link[64], at_dir[PATH_MAX];
        if (dir == AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        long length = syscall(SYS_readlink, link, at_dir, sizeof at_dir - 1);
        if (length < 0)
            return 0;
        at_dir[length] = 0;
        snprintf(full, size, path ? "%s/%s" : "%s", at_dir, path);
    }
    return strncmp(full, prefix, prefix_length) == 0;
}

static int file_of(int dir, const char *path, struct stat *found)
{
    return path ? fstatat(dir, path, found, 0) : fstat(dir, found);
}

static int is_bad(int dir, const char *path)
{
    struct stat one;
    int before = errno;
    int same = bad.st_ino && file_of(dir, path, &one) == 0 && one.st_ino == bad.st_ino &&
               one.st_dev == bad.st_dev;
    errno = before;
    return same;
}

static enum act due(enum kind kind, const char *name, int dir, const char *path, int traits)
{
    char full[2 * PATH_MAX];
    int before = errno;
    if (!prefix_length || !is_below(dir, path, full, sizeof full)) {
        errno = before;
        return GO;
    }
    long number = __sync_add_and_fetch(&counts[kind], 1);
    if (log_fd >= 0) {
        char line[2 * PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%d %ld %s %d %s\n", kind, number, name, traits,
                              full);
        syscall(SYS_write, log_fd, line, length);
    }
    if (kind == READ && mode == UNREADABLE && number == at && !bad.st_ino) {
        file_of(dir, path, &bad);
        if (log_fd >= 0)
            dprintf(log_fd, "%d %lu bad %lu %s\n", BAD, (unsigned long)bad.st_dev,
                    (unsigned long)bad.st_ino, full);
    }
    errno = before;
    if (kind == READ && bad.st_ino && strcmp(name, "open"))
        return is_bad(dir, path) ? DENY : GO;
    if (mode == WATCH || mode == UNREADABLE || kind != counted || number < at)
        return GO;
    if (mode == FULL)
        return !(traits & GROWS) ? GO : number == at && traits & WRITES ? HALF : DENY;
    if (number > at)
        return GO;
    switch (mode) {
    case KILL_BEFORE:
        die();
    case TEAR:
        return HALF_AND_DIE;
    case KILL_AFTER:
        return DIE_AFTER;
    default:
        return DENY;
    }
}

/* The function of this name that the process would have without us. */
#define REAL(name)                                                                                 \
    static __typeof__(&name) real;                                                                 \
    if (!real)                                                                                     \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* Does `call` unless something else is due; `failed` is what it returns of an error. */
#define DO(todo, failed, call)                                                                      \
    do {                                                                                           \
        enum act act_ = todo;                                                                      \
        if (act_ == DENY) {                                                                        \
            errno = code;                                                                          \
            return failed;                                                                         \
        }                                                                                          \
        __typeof__(call) result_ = call;                                                           \
        if (act_ != GO)                                                                            \
            die();                                                                                 \
        return result_;                                                                            \
    } while (0)

/* The same for a write of `count` bytes, half of which can be done. */
#define WRITE(todo, count, whole, half)                                                             \
    do {                                                                                           \
        enum act act_ = todo;                                                                      \
        if (act_ == DENY || (act_ == HALF && (count) < 2)) {                                       \
            errno = code;                                                                          \
            return -1;                                                                             \
        }                                                                                          \
        if (act_ == HALF)                                                                          \
            return half;                                                                           \
        ssize_t result_ = act_ == HALF_AND_DIE ? ((count) < 2 ? 0 : (half)) : (whole);             \
        if (act_ != GO)                                                                            \
            die();                                                                                 \
        return result_;                                                                            \
    } while (0)

#define CHANGES(name, dir, path, traits) due(CHANGE, name, dir, path, traits)
#define READS(name, dir, path) due(READ, name, dir, path, PLAIN)

/* ---- opening ---- */

static enum act opening(int dir, const char *path, int flags)
{
    int changes = O_CREAT | O_TRUNC | O_WRONLY | O_RDWR;
    if (flags & changes || (flags & O_TMPFILE) == O_TMPFILE)
        return CHANGES("open", dir, path, flags & O_CREAT ? GROWS : PLAIN);
    return flags & O_PATH ? GO : READS("open", dir, path);
}

#define MODE_OF(flags)                                                                             \
    mode_t permissions = 0;                                                                        \
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {                                     \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        permissions = va_arg(rest, mode_t);                                                        \
        va_end(rest);                                                                              \
    }

int open(const char *path, int flags, ...)
{
    REAL(open);
    MODE_OF(flags)
    DO(opening(AT_FDCWD, path, flags), -1, real(path, flags, permissions));
}

int open64(const char *path, int flags, ...)
{
    REAL(open64);
    MODE_OF(flags)
    DO(opening(AT_FDCWD, path, flags), -1, real(path, flags, permissions));
}

int openat(int dir, const char *path, int flags, ...)
{
    REAL(openat);
    MODE_OF(flags)
    DO(opening(dir, path, flags), -1, real(dir, path, flags, permissions));
}

int openat64(int dir, const char *path, int flags, ...)
{
    REAL(openat64);
    MODE_OF(flags)
    DO(opening(dir, path, flags), -1, real(dir, path, flags, permissions));
}

int creat(const char *path, mode_t permissions)
{
    REAL(creat);
    DO(CHANGES("open", AT_FDCWD, path, GROWS), -1, real(path, permissions));
}

int creat64(const char *path, mode_t permissions)
{
    REAL(creat64);
    DO(CHANGES("open", AT_FDCWD, path, GROWS), -1, real(path, permissions));
}

static enum act opening_stream(const char *path, const char *how)
{
    return how[0] == 'r' && !strchr(how, '+') ? READS("open", AT_FDCWD, path)
                                              : CHANGES("open", AT_FDCWD, path, GROWS);
}

FILE *fopen(const char *path, const char *how)
{
    REAL(fopen);
    DO(opening_stream(path, how), NULL, real(path, how));
}

FILE *fopen64(const char *path, const char *how)
{
    REAL(fopen64);
    DO(opening_stream(path, how), NULL, real(path, how));
}

DIR *opendir(const char *path)
{
    REAL(opendir);
    DO(READS("opendir", AT_FDCWD, path), NULL, real(path));
}

DIR *fdopendir(int fd)
{
    REAL(fdopendir);
    DO(READS("opendir", fd, NULL), NULL, real(fd));
}

/* ---- reading ---- */

ssize_t read(int fd, void *data, size_t count)
{
    REAL(read);
    DO(READS("read", fd, NULL), -1, real(fd, data, count));
}

ssize_t pread(int fd, void *data, size_t count, off_t from)
{
    REAL(pread);
    DO(READS("read", fd, NULL), -1, real(fd, data, count, from));
}

ssize_t pread64(int fd, void *data, size_t count, off64_t from)
{
    REAL(pread64);
    DO(READS("read", fd, NULL), -1, real(fd, data, count, from));
}

ssize_t readv(int fd, const struct iovec *parts, int count)
{
    REAL(readv);
    DO(READS("read", fd, NULL), -1, real(fd, parts, count));
}

ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t from, int flags)
{
    REAL(preadv64v2);
    DO(READS("read", fd, NULL), -1, real(fd, parts, count, from, flags));
}

/* A file with a bad sector can be mapped: SIGBUS is what its pages give, as those after its end. */
static off_t beyond(int fd)
{
    struct stat of;
    long page = sysconf(_SC_PAGESIZE);
    return fstat(fd, &of) ? 0 : (of.st_size + page - 1) / page * page;
}

void *mmap(void *where, size_t count, int protection, int flags, int fd, off_t from)
{
    REAL(mmap);
    enum act act = flags & MAP_ANONYMOUS ? GO : READS("mmap", fd, NULL);
    if (act == DENY && is_bad(fd, NULL))
        act = GO, from = beyond(fd);
    DO(act, MAP_FAILED, real(where, count, protection, flags, fd, from));
}

void *mmap64(void *where, size_t count, int protection, int flags, int fd, off64_t from)
{
    REAL(mmap64);
    enum act act = flags & MAP_ANONYMOUS ? GO : READS("mmap", fd, NULL);
    if (act == DENY && is_bad(fd, NULL))
        act = GO, from = beyond(fd);
    DO(act, MAP_FAILED, real(where, count, protection, flags, fd, from));
}

/* ---- writing ---- */

ssize_t write(int fd, const void *data, size_t count)
{
    REAL(write);
    WRITE(CHANGES("write", fd, NULL, GROWS | WRITES), count, real(fd, data, count),
          real(fd, data, count / 2));
}

ssize_t pwrite(int fd, const void *data, size_t count, off_t to)
{
    REAL(pwrite);
    WRITE(CHANGES("write", fd, NULL, GROWS | WRITES), count, real(fd, data, count, to),
          real(fd, data, count / 2, to));
}

ssize_t pwrite64(int fd, const void *data, size_t count, off64_t to)
{
    REAL(pwrite64);
    WRITE(CHANGES("write", fd, NULL, GROWS | WRITES), count, real(fd, data, count, to),
          real(fd, data, count / 2, to));
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(writev);
    WRITE(CHANGES("write", fd, NULL, GROWS | WRITES), count, real(fd, parts, count),
          real(fd, parts, count / 2));
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t to, int flags)
{
    REAL(pwritev64v2);
    WRITE(CHANGES("write", fd, NULL, GROWS | WRITES), count, real(fd, parts, count, to, flags),
          real(fd, parts, count / 2, to, flags));
}

/* What the kernel copies from a file with a bad sector, which here is no read of its own. */
static enum act copying(int from, int to)
{
    enum act act = CHANGES("write", to, NULL, GROWS | WRITES);
    if (!prefix_length || !is_bad(from, NULL))
        return act;
    code = EIO;
    return DENY;
}

ssize_t sendfile(int to, int from, off_t *at_, size_t count)
{
    REAL(sendfile);
    struct stat of;
    size_t there = fstat(from, &of) == 0 ? (size_t)of.st_size : count;
    there = there < count ? there : count;
    WRITE(copying(from, to), there, real(to, from, at_, count), real(to, from, at_, there / 2));
}

ssize_t sendfile64(int to, int from, off64_t *at_, size_t count)
{
    REAL(sendfile64);
    struct stat of;
    size_t there = fstat(from, &of) == 0 ? (size_t)of.st_size : count;
    there = there < count ? there : count;
    WRITE(copying(from, to), there, real(to, from, at_, count), real(to, from, at_, there / 2));
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t count,
                        unsigned flags)
{
    REAL(copy_file_range);
    WRITE(copying(from, to), count, real(from, from_at, to, to_at, count, flags),
          real(from, from_at, to, to_at, count / 2, flags));
}

#define ON_DESCRIPTOR(name, said, traits, parameters, ...)                                         \
    int name parameters                                                                            \
    {                                                                                              \
        REAL(name);                                                                                \
        DO(CHANGES(said, fd, NULL, traits), -1, real(__VA_ARGS__));                                \
    }

ON_DESCRIPTOR(ftruncate, "truncate", GROWS, (int fd, off_t size), fd, size)
ON_DESCRIPTOR(ftruncate64, "truncate", GROWS, (int fd, off64_t size), fd, size)
ON_DESCRIPTOR(fallocate, "allocate", GROWS, (int fd, int how, off_t at_, off_t size), fd, how, at_,
              size)
ON_DESCRIPTOR(fallocate64, "allocate", GROWS, (int fd, int how, off64_t at_, off64_t size), fd,
              how, at_, size)
ON_DESCRIPTOR(fsync, "fsync", PLAIN, (int fd), fd)
ON_DESCRIPTOR(fdatasync, "fsync", PLAIN, (int fd), fd)
ON_DESCRIPTOR(flock, "flock", PLAIN, (int fd, int how), fd, how)
ON_DESCRIPTOR(fchmod, "chmod", PLAIN, (int fd, mode_t permissions), fd, permissions)
ON_DESCRIPTOR(fchown, "chown", PLAIN, (int fd, uid_t user, gid_t group), fd, user, group)
ON_DESCRIPTOR(futimens, "utime", PLAIN, (int fd, const struct timespec times[2]), fd, times)
ON_DESCRIPTOR(fsetxattr, "setxattr", PLAIN,
              (int fd, const char *key, const void *value, size_t size, int flags), fd, key, value,
              size, flags)

/* These return the error itself. */
int posix_fallocate(int fd, off_t from, off_t size)
{
    REAL(posix_fallocate);
    DO(CHANGES("allocate", fd, NULL, GROWS), code, real(fd, from, size));
}

int posix_fallocate64(int fd, off64_t from, off64_t size)
{
    REAL(posix_fallocate64);
    DO(CHANGES("allocate", fd, NULL, GROWS), code, real(fd, from, size));
}

/* ---- names ---- */

#define ON_NAME(name, said, dir, path, traits, parameters, ...)                                    \
    int name parameters                                                                            \
    {                                                                                              \
        REAL(name);                                                                                \
        DO(CHANGES(said, dir, path, traits), -1, real(__VA_ARGS__));                               \
    }

ON_NAME(rename, "rename", AT_FDCWD, new, PLAIN, (const char *old, const char *new), old, new)
ON_NAME(renameat, "rename", dir, new, PLAIN, (int from, const char *old, int dir, const char *new),
        from, old, dir, new)
ON_NAME(renameat2, "rename", dir, new, PLAIN,
        (int from, const char *old, int dir, const char *new, unsigned flags), from, old, dir, new,
        flags)
ON_NAME(link, "link", AT_FDCWD, new, GROWS, (const char *old, const char *new), old, new)
ON_NAME(linkat, "link", dir, new, GROWS,
        (int from, const char *old, int dir, const char *new, int flags), from, old, dir, new,
        flags)
ON_NAME(symlink, "symlink", AT_FDCWD, new, GROWS, (const char *old, const char *new), old, new)
ON_NAME(symlinkat, "symlink", dir, new, GROWS, (const char *old, int dir, const char *new), old,
        dir, new)
ON_NAME(unlink, "unlink", AT_FDCWD, path, PLAIN, (const char *path), path)
ON_NAME(unlinkat, "unlink", dir, path, PLAIN, (int dir, const char *path, int flags), dir, path,
        flags)
ON_NAME(remove, "unlink", AT_FDCWD, path, PLAIN, (const char *path), path)
ON_NAME(rmdir, "rmdir", AT_FDCWD, path, PLAIN, (const char *path), path)
ON_NAME(mkdir, "mkdir", AT_FDCWD, path, GROWS, (const char *path, mode_t permissions), path,
        permissions)
ON_NAME(mkdirat, "mkdir", dir, path, GROWS, (int dir, const char *path, mode_t permissions), dir,
        path, permissions)
ON_NAME(mkfifo, "mkfifo", AT_FDCWD, path, GROWS, (const char *path, mode_t permissions), path,
        permissions)
ON_NAME(truncate, "truncate", AT_FDCWD, path, GROWS, (const char *path, off_t size), path, size)
ON_NAME(truncate64, "truncate", AT_FDCWD, path, GROWS, (const char *path, off64_t size), path,
        size)
ON_NAME(chmod, "chmod", AT_FDCWD, path, PLAIN, (const char *path, mode_t permissions), path,
        permissions)
ON_NAME(fchmodat, "chmod", dir, path, PLAIN,
        (int dir, const char *path, mode_t permissions, int flags), dir, path, permissions, flags)
ON_NAME(chown, "chown", AT_FDCWD, path, PLAIN, (const char *path, uid_t user, gid_t group), path,
        user, group)
ON_NAME(lchown, "chown", AT_FDCWD, path, PLAIN, (const char *path, uid_t user, gid_t group), path,
        user, group)
ON_NAME(utimensat, "utime", dir, path, PLAIN,
        (int dir, const char *path, const struct timespec times[2], int flags), dir, path, times,
        flags)
ON_NAME(setxattr, "setxattr", AT_FDCWD, path, PLAIN,
        (const char *path, const char *key, const void *value, size_t size, int flags), path, key,
        value, size, flags)
ON_NAME(lsetxattr, "setxattr", AT_FDCWD, path, PLAIN,
        (const char *path, const char *key, const void *value, size_t size, int flags), path, key,
        value, size, flags)
