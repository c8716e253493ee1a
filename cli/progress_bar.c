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

/* "layer 3/40", "embedding". */
static void part_name(const upg_progress *now, char *text, size_t cap)
{
    if (now->parts > 1)
        snprintf(text, cap, "%s %" PRIu32 "/%" PRIu32, now->part, now->part_index, now->parts);
    else
        snprintf(text, cap, "%s", now->part);
}

void cli_part_text(const upg_progress *now, bool bar, size_t width, char *text, size_t cap)
{
    char   name[32], drawn[BAR_COLUMNS + 3] = "", percent[16] = "", loss[32] = "";
    double share = now->part_total ? (double)now->part_done / (double)now->part_total : 0;
    int    n;

    if (share > 1)
        share = 1;
    part_name(now, name, sizeof name);
    if (bar && now->part_total)
        bar_text(share, drawn);
    if (now->part_total)
        snprintf(percent, sizeof percent, "%s%3.0f %%", bar ? " " : "  ", 100 * share);
    if (now->loss >= 0)
        snprintf(loss, sizeof loss, "  loss %.4f", now->loss);
    n = snprintf(text, cap, bar ? "%-10s %s%s%s" : "%s%s%s%s", name, drawn, percent, loss);
    if (n > 0 && (size_t)n >= width && width > 0 && width <= cap)
        text[width - 1] = '\0';
}

/* The stage, and its part on a line below, which goes when the stage ends. */
static void draw_bar(cli_progress *progress, const upg_progress *now, bool ended)
{
    char   line[LINE_BYTES];
    size_t width = terminal_width();

    width = width < sizeof line ? width : sizeof line;
    cli_progress_text(now, true, width, line, sizeof line);
    fprintf(stderr, "\r%s\033[K%s", line, ended ? "\n" : "");
    progress->open_lines = ended ? 0 : 1;
    if (now->part && ended) {
        fputs("\033[K", stderr);
    } else if (now->part) {
        cli_part_text(now, true, width, line, sizeof line);
        fprintf(stderr, "\n%s\033[K\033[1A", line);
        progress->open_lines = 2;
    }
    fflush(stderr);
}

static void draw_line(cli_progress *progress, const upg_progress *now, bool ended)
{
    char   line[LINE_BYTES];
    double time = now_s();

    if (!ended && time - progress->last_s < PLAIN_SECONDS)
        return;
    progress->last_s = time;
    cli_progress_text(now, false, 0, line, sizeof line);
    fputs(line, stderr);
    if (now->part && !ended) {
        cli_part_text(now, false, 0, line, sizeof line);
        fprintf(stderr, "  %s", line);
    }
    fputc('\n', stderr);
}

/* One line for each part that took a while: what a log of hours is read for. `now` may be of the
 * next part or the stage's last report: it tells the loss up to there. */
static void end_part(cli_progress *progress, const upg_progress *now)
{
    char   name[32], count[CLI_SIZE_TEXT], loss[32] = "";
    double seconds = now_s() - progress->part_s;

    if (!progress->part.part || seconds < PLAIN_SECONDS || progress->is_json || progress->quiet)
        return;
    cli_progress_close(progress);
    part_name(&progress->part, name, sizeof name);
    count_text((double)progress->part.part_total, count);
    if (now->loss >= 0)
        snprintf(loss, sizeof loss, ", loss so far %.4f", now->loss);
    fprintf(stderr, "%s: %s%s in %.1f s%s\n", name, count, now->unit, seconds, loss);
}

/* Notes which part is at work; its names are the library's own and stay. */
static void follow_part(cli_progress *progress, const upg_progress *now, bool ended)
{
    const upg_progress *before = &progress->part;

    if (ended || before->part != now->part || before->part_index != now->part_index) {
        end_part(progress, now);
        progress->part_s = now_s();
    }
    progress->part = *now;
    if (ended)
        progress->part.part = NULL;
}

static void print_number(const char *format, double value)
{
    char text[48] = "null";

    if (value >= 0)
        snprintf(text, sizeof text, format, value);
    fputs(text, stderr);
}

/* All words in a report are the library's own: nothing to escape. */
static void print_json(const upg_progress *now)
{
    fprintf(stderr,
            "{\"stage\":\"%s\",\"unit\":\"%s\",\"done\":%" PRIu64 ",\"total\":%" PRIu64
            ",\"rate\":%.6g,\"seconds_left\":",
            now->stage, now->unit, now->done, now->total, now->rate);
    print_number("%.3f", now->seconds);
    if (now->part)
        fprintf(stderr, ",\"part\":\"%s\"", now->part);
    else
        fputs(",\"part\":null", stderr);
    fprintf(stderr,
            ",\"part_index\":%" PRIu32 ",\"parts\":%" PRIu32 ",\"part_done\":%" PRIu64
            ",\"part_total\":%" PRIu64 ",\"loss\":",
            now->part_index, now->parts, now->part ? now->part_done : 0, now->part_total);
    print_number("%.6g", now->loss);
    fputs("}\n", stderr);
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
        progress->part = (upg_progress) { 0 };
    }
    if (progress->quiet || (ended && progress->ended))
        return cli_signals_caught();
    progress->ended = ended;
    follow_part(progress, now, ended);
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
    for (; progress->open_lines > 0; progress->open_lines--)
        fputc('\n', stderr);
}
