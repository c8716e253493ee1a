/* progress_bar.c: the library reports at most ten times a second and at the end of each stage. */
#include "progress_bar.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "report.h"
#include "signals.h"

enum { BAR_COLUMNS = 24, LINE_BYTES = 256, PLAIN_SECONDS = 5, WIDTH_DEFAULT = 80 };

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t terminal_width(void)
{
    struct winsize size;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return WIDTH_DEFAULT;
}

/* "1.53 M": the unit's name follows. */
static void count_text(double count, char text[CLI_SIZE_TEXT])
{
    static const char *const prefixes[] = { "", "k", "M", "G", "T" };
    size_t                   i = 0;

    for (; count >= 999.5 && i < 4; i++)
        count /= 1e3;
    snprintf(text, CLI_SIZE_TEXT, "%.3g %s", count, prefixes[i]);
}

/* "0:42" or "3:07:15". */
static void time_text(double seconds, char text[CLI_SIZE_TEXT])
{
    unsigned long s = seconds < 1e8 ? (unsigned long)(seconds + .5) : 99999999ul;

    if (s < 3600)
        snprintf(text, CLI_SIZE_TEXT, "%lu:%02lu", s / 60, s % 60);
    else
        snprintf(text, CLI_SIZE_TEXT, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
}

static void bar_text(double share, char bar[BAR_COLUMNS + 3])
{
    size_t filled = (size_t)(share * BAR_COLUMNS + .5);

    bar[0] = '[';
    for (size_t i = 0; i < BAR_COLUMNS; i++)
        bar[1 + i] = i < filled ? '#' : '.';
    bar[1 + BAR_COLUMNS] = ']';
    bar[2 + BAR_COLUMNS] = '\0';
}

void cli_progress_text(const upg_progress *now, bool bar, size_t width, char *text, size_t cap)
{
    char   rate[CLI_SIZE_TEXT], left[CLI_SIZE_TEXT] = "", drawn[BAR_COLUMNS + 3] = "";
    double share = now->total ? (double)now->done / (double)now->total : 0;
    int    n;

    if (share > 1)
        share = 1;
    count_text(now->rate, rate);
    if (now->seconds >= 0 && now->done < now->total)
        time_text(now->seconds, left);
    if (bar && now->total)
        bar_text(share, drawn);
    if (now->total)
        n = snprintf(text, cap, "%-10s %s%s%3.0f %%  %s%s/s%s%s", now->stage, drawn, bar ? " " : "",
                     100 * share, rate, now->unit, left[0] ? "  left " : "", left);
    else
        n = snprintf(text, cap, "%-10s %" PRIu64 " %s  %s%s/s", now->stage, now->done, now->unit,
                     rate, now->unit);
    if (n > 0 && (size_t)n >= width && width > 0 && width <= cap)
        text[width - 1] = '\0';
}

static void draw_bar(cli_progress *progress, const upg_progress *now, bool ended)
{
    char   line[LINE_BYTES];
    size_t width = terminal_width();

    cli_progress_text(now, true, width < sizeof line ? width : sizeof line, line, sizeof line);
    fprintf(stderr, "\r%s\033[K%s", line, ended ? "\n" : "");
    fflush(stderr);
    progress->is_open = !ended;
}

static void draw_line(cli_progress *progress, const upg_progress *now, bool ended)
{
    char   line[LINE_BYTES];
    double time = now_s();

    if (!ended && time - progress->last_s < PLAIN_SECONDS)
        return;
    progress->last_s = time;
    cli_progress_text(now, false, 0, line, sizeof line);
    fprintf(stderr, "%s\n", line);
}

/* All words in a report are the library's own: nothing to escape. */
static void print_json(const upg_progress *now)
{
    fprintf(stderr,
            "{\"stage\":\"%s\",\"unit\":\"%s\",\"done\":%" PRIu64 ",\"total\":%" PRIu64
            ",\"rate\":%.6g,\"seconds_left\":",
            now->stage, now->unit, now->done, now->total, now->rate);
    if (now->seconds >= 0)
        fprintf(stderr, "%.3f}\n", now->seconds);
    else
        fputs("null}\n", stderr);
}

static int on_progress(void *user, const upg_progress *now)
{
    cli_progress *progress = user;
    bool          ended = now->total > 0 && now->done >= now->total;

    if (strncmp(progress->stage, now->stage, sizeof progress->stage - 1) != 0) {
        cli_progress_close(progress);
        snprintf(progress->stage, sizeof progress->stage, "%s", now->stage);
        progress->last_s = now_s();
        progress->ended = false;
    }
    if (progress->quiet || (ended && progress->ended))
        return cli_signals_caught();
    progress->ended = ended;
    if (progress->is_json)
        print_json(now);
    else if (progress->is_terminal)
        draw_bar(progress, now, ended);
    else
        draw_line(progress, now, ended);
    return cli_signals_caught();
}

static void on_log(void *user, upg_log level, const char *message)
{
    cli_progress *progress = user;

    if (progress->quiet && level > UPG_LOG_WARN)
        return;
    cli_progress_close(progress);
    cli_log(NULL, level, message);
}

void cli_progress_init(cli_progress *progress, bool quiet)
{
    *progress = (cli_progress) { .quiet = quiet, .is_terminal = isatty(STDERR_FILENO) };
}

upg_hooks cli_progress_hooks(cli_progress *progress)
{
    return (upg_hooks) { .progress = on_progress, .log = on_log, .user = progress };
}

void cli_progress_close(cli_progress *progress)
{
    if (progress->is_open)
        fputc('\n', stderr);
    progress->is_open = false;
}
