/* os_cpu.c: CPU features, name and count, as the hardware and the operating system tell them. */
#include "base/cpu.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1u << 20)
#endif
#endif

static _Atomic uint32_t allowed_flags = UINT32_MAX;

static uint32_t detect(void)
{
    uint32_t flags = 0;

#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2"))
        flags |= UPG_CPU_AVX2; /* every AVX2 processor has F16C */
    if ((flags & UPG_CPU_AVX2) && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        flags |= UPG_CPU_AVX512;
    if ((flags & UPG_CPU_AVX512) && __builtin_cpu_supports("avx512vbmi"))
        flags |= UPG_CPU_AVX512VBMI;
    if ((flags & UPG_CPU_AVX512) && __builtin_cpu_supports("avx512vnni"))
        flags |= UPG_CPU_AVX512VNNI;
#elif defined(__aarch64__)
    flags |= UPG_CPU_NEON;
#if defined(__linux__)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP)
        flags |= UPG_CPU_DOTPROD;
#else
    flags |= UPG_CPU_DOTPROD;
#endif
#endif
    return flags;
}

static uint32_t mask_from_environment(void)
{
    const char *name = getenv("UPG_CPU");

    if (name == NULL)
        return UINT32_MAX;
    if (strcmp(name, "scalar") == 0)
        return 0;
    if (strcmp(name, "avx2") == 0)
        return UPG_CPU_AVX2;
    if (strcmp(name, "neon") == 0)
        return UPG_CPU_NEON;
    return UINT32_MAX;
}

uint32_t upg_cpu_flags(void)
{
    return detect() & mask_from_environment() & atomic_load(&allowed_flags);
}

void upg_cpu_mask(uint32_t allowed)
{
    atomic_store(&allowed_flags, allowed);
}

void upg_cpu_describe(uint32_t flags, char *text, size_t cap)
{
    static const char *const names[] = { "avx2",       "avx512", "avx512vbmi",
                                         "avx512vnni", "neon",   "dotprod" };
    size_t                   used = 0;

    snprintf(text, cap, "none");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (flags >> i & 1u && used < cap)
            used +=
                (size_t)snprintf(text + used, cap - used, "%s%s", used > 0 ? " " : "", names[i]);
}

void upg_cpu_name(char *text, size_t cap)
{
    char  line[256];
    FILE *info = fopen("/proc/cpuinfo", "re");

    text[0] = '\0';
    if (info == NULL)
        return;
    while (text[0] == '\0' && fgets(line, sizeof line, info) != NULL) {
        char *colon = strchr(line, ':');

        if (strncmp(line, "model name", 10) != 0 || colon == NULL)
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(text, cap, "%s", colon + 1 + strspn(colon + 1, " \t"));
    }
    fclose(info);
}

/* CPUs that a cgroup-v2 quota grants, rounded up; UINT32_MAX without one. */
static uint32_t quota_cpus(void)
{
    long  quota, period;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    int   found = 0;

    if (file == NULL)
        return UINT32_MAX;
    found = fscanf(file, "%ld %ld", &quota, &period);
    fclose(file);
    if (found != 2 || quota <= 0 || period <= 0)
        return UINT32_MAX;
    return (uint32_t)((quota + period - 1) / period);
}

/* True when `cpu` is the first of its core's hardware threads. */
static int first_of_core(int cpu)
{
    char  path[96];
    int   first = cpu;
    FILE *file;

    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    file = fopen(path, "re");
    if (file == NULL)
        return 1;
    if (fscanf(file, "%d", &first) != 1)
        first = cpu;
    fclose(file);
    return first == cpu;
}

uint32_t upg_cpu_cores(void)
{
    uint32_t cores = 0, quota = quota_cpus();

#if defined(__linux__)
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            cores += CPU_ISSET((size_t)cpu, &set) && first_of_core(cpu);
#endif
    if (cores == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        cores = online > 0 ? (uint32_t)online : 1;
    }
    return cores < quota ? cores : quota;
}
