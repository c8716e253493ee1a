/* os_map_guard.c: the SIGBUS handler and its table.
 *
 * A slot goes free ─► claimed ─► published ─► free. The handler looks at published ones alone; a
 * mapping that is read is published, since its owner removes it before it unmaps. */
#include "base/map_guard.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SLOTS = 1024 };

typedef struct slot {
    atomic_bool          claimed;
    _Atomic(uintptr_t)   base; /* 0 = not published; release, pairs with acquire in find_slot */
    size_t               size; /* written before base is */
    atomic_uint_fast64_t lost; /* offset; relaxed: read after the readers' barrier */
} slot;

static slot             slots[SLOTS];
static atomic_bool      installed;
static uintptr_t        page_size;
static struct sigaction previous; /* written before the handler can run */

uint32_t upg_map_guard_add(const void *base, size_t size)
{
    for (uint32_t i = 0; i < SLOTS; i++) {
        slot *s = &slots[i];

        if (atomic_exchange(&s->claimed, true))
            continue;
        s->size = size;
        atomic_store_explicit(&s->lost, UINT64_MAX, memory_order_relaxed);
        atomic_store_explicit(&s->base, (uintptr_t)base, memory_order_release);
        return i + 1;
    }
    return 0;
}

void upg_map_guard_remove(uint32_t guard)
{
    if (guard == 0)
        return;
    atomic_store(&slots[guard - 1].base, 0);
    atomic_store(&slots[guard - 1].claimed, false);
}

uint64_t upg_map_guard_lost(uint32_t guard)
{
    return guard == 0 ? UINT64_MAX
                      : atomic_load_explicit(&slots[guard - 1].lost, memory_order_relaxed);
}

/* ---- in the handler ---------------------------------------------------------------------------
 */

static slot *find_slot(uintptr_t address)
{
    for (uint32_t i = 0; i < SLOTS; i++) {
        uintptr_t base = atomic_load_explicit(&slots[i].base, memory_order_acquire);

        if (base != 0 && address >= base && address - base < slots[i].size)
            return &slots[i];
    }
    return NULL;
}

bool upg_map_guard_covers(const void *memory, size_t bytes)
{
    slot *s = find_slot((uintptr_t)memory);

    return s != NULL && bytes <= s->size - ((uintptr_t)memory -
                                            atomic_load_explicit(&s->base, memory_order_relaxed));
}

/* Puts zeros in the place of all from the lost page to the end. */
static bool replace(slot *s, uintptr_t address)
{
    uintptr_t     base = atomic_load_explicit(&s->base, memory_order_relaxed);
    uintptr_t     page = address - address % page_size;
    uint_fast64_t offset = page - base, before;

    if (mmap((void *)page, base + s->size - page, PROT_READ,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        return false;
    before = atomic_load_explicit(&s->lost, memory_order_relaxed);
    while (offset < before && !atomic_compare_exchange_weak(&s->lost, &before, offset))
        ;
    return true;
}

/* Not ours: as if this handler were not there. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(number, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(number);
    } else {
        sigaction(number, &previous, NULL);
        raise(number); /* comes when this handler returns */
    }
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    int   saved = errno;
    slot *s = info->si_code > 0 ? find_slot((uintptr_t)info->si_addr) : NULL;

    if (s == NULL || !replace(s, (uintptr_t)info->si_addr))
        pass_on(number, info, context);
    errno = saved;
}

upg_status upg_map_guard_install(upg_error *err)
{
    struct sigaction action = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO };

    if (atomic_exchange(&installed, true))
        return UPG_OK;
    page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, NULL, &previous) == 0 && sigaction(SIGBUS, &action, NULL) == 0)
        return UPG_OK;
    atomic_store(&installed, false);
    return upg_fail_os(err, UPG_E_IO, errno, "cannot install a handler for SIGBUS");
}
