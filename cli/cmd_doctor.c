/* cmd_doctor.c: `upg doctor`: what this machine can do, and what to expect of it. */
#include <inttypes.h>
#include <stdio.h>

#include "command.h"
#include "report.h"

/* Phi-4 at 3.2 bits per weight: bytes of the file, and bytes read for one token (all but the
 * embedding, of which one row is read). docs/ARCHITECTURE.md has the sum. */
static const double phi4_file_bytes = 5.863e9, phi4_token_bytes = 5.66e9;

typedef struct doctor_args {
    bool json;
} doctor_args;

static const cli_option options[] = {
    { .name = "json",
      .type = CLI_FLAG,
      .offset = offsetof(doctor_args, json),
      .help = "writes one JSON object" },
    { 0 },
};

static int print_json(const cli_command *command, const upg_machine_info *m)
{
    json_t *object = json_object(), *expected = json_object();

    cli_json_text(object, "version", upg_version());
    cli_json_text(object, "cpu", m->cpu);
    cli_json_text(object, "isa", m->isa);
    cli_json_u64(object, "cores", m->cores);
    cli_json_text(object, "topology", m->topology);
    json_object_set_new(object, "pinned", json_boolean(m->pinned));
    cli_json_u64(object, "memory_total", m->memory_total);
    cli_json_u64(object, "memory_available", m->memory_available);
    cli_json_real(object, "read_gb_s_1", m->read_gb_s_1);
    cli_json_real(object, "read_gb_s_all", m->read_gb_s_all);
    cli_json_text(object, "gpu", m->gpu);
    cli_json_text(expected, "kind", "estimate, not a measurement: bandwidth / bytes per token");
    cli_json_real(expected, "bytes_per_token", phi4_token_bytes);
    cli_json_real(expected, "tokens_per_second", 1e9 * m->read_gb_s_all / phi4_token_bytes);
    json_object_set_new(expected, "fits_in_memory",
                        json_boolean((double)m->memory_total > phi4_file_bytes));
    json_object_set_new(object, "phi4_estimate", expected);
    return cli_json_print(command, object);
}

static int print_text(const upg_machine_info *m)
{
    char   total[CLI_SIZE_TEXT], available[CLI_SIZE_TEXT];
    double rate = 1e9 * m->read_gb_s_all / phi4_token_bytes;

    printf("upg             %s\n", upg_version());
    printf("processor       %s, %" PRIu32 " cores\n", m->cpu, m->cores);
    printf("topology        %s; threads %s\n", m->topology,
           m->pinned ? "are bound to cores" : "are left to the system");
    printf("instructions    %s\n", m->isa);
    printf("memory          %s, %s available\n", cli_size_text(m->memory_total, total),
           cli_size_text(m->memory_available, available));
    printf("read bandwidth  %.1f GB/s on one thread, %.1f on all (measured now)\n", m->read_gb_s_1,
           m->read_gb_s_all);
    printf("GPU             %s\n", m->gpu[0] ? m->gpu : "none found");
    printf("\nPhi-4 (14.7 B parameters) at 3.2 bits per weight reads 5.66 GB for each token.\n"
           "Estimate from the bandwidth above, not a measurement: at most %.1f tokens/s on the "
           "CPU.\n",
           rate);
    if ((double)m->memory_total <= phi4_file_bytes)
        printf("Its file of 5.86 GB does not fit in this machine's memory: it would be read from "
               "the disk\nfor every token.\n");
    return cli_finish_output();
}

static int run(const cli_command *command, int argc, char **argv)
{
    doctor_args      args = { 0 };
    cli_parsed       parsed;
    upg_error        err;
    upg_machine_info machine = { .struct_size = sizeof machine };
    upg_status       st;
    int              exit_code = cli_parse(command, argc, argv, &args, &parsed);

    if (exit_code >= 0)
        return exit_code;
    st = upg_machine_describe(&machine, &err);
    if (st != UPG_OK)
        return cli_report(command, st, &err);
    return args.json ? print_json(command, &machine) : print_text(&machine);
}

const cli_command cli_doctor = {
    .name = "doctor",
    .arguments = "[options]",
    .summary = "shows what this machine can do, and what speed to expect",
    .about = "Shows processor, instruction sets, memory, GPU and the read bandwidth, which it\n"
             "measures for about a second, and estimates from it how fast Phi-4 would run.",
    .options = options,
    .n_operands = 0,
    .run = run,
};
