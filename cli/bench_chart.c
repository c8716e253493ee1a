/* bench_chart.c: the table as SVG, written by hand: one bar a row, the axis ends at the limit. */
#include <math.h>
#include <stdio.h>

#include "bench_table.h"
#include "report.h"

enum { LEFT = 300, WIDTH = 560, TOP = 64, ROW = 34, BAR = 20, RIGHT = 60, BOTTOM = 52 };

typedef struct axis {
    double first, limit; /* tokens a second */
} axis;

static double place(const axis *a, double value)
{
    double x = log(value / a->first) / log(a->limit / a->first);

    return LEFT + WIDTH * (x < 0 ? 0 : x > 1 ? 1 : x);
}

/* A power of ten below every row. */
static axis make_axis(const table_row *rows, size_t n, double limit)
{
    double least = limit;

    for (size_t i = 0; i < n; i++)
        if (rows[i].token_s > 0 && 1 / rows[i].token_s < least)
            least = 1 / rows[i].token_s;
    return (axis) { pow(10, floor(log10(least * 0.9))), limit };
}

static void draw_axis(FILE *f, const axis *a, double bottom)
{
    for (double tick = a->first; tick < a->limit * 0.999; tick *= 10) {
        double x = place(a, tick);

        fprintf(f, "<line class=\"grid\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%.1f\"/>\n", x,
                TOP - 6, x, bottom);
        if (a->limit / tick > 1.6)
            fprintf(f, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\">%g</text>\n", x, bottom + 16,
                    tick);
    }
    fprintf(f, "<line class=\"limit\" x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%.1f\"/>\n", LEFT + WIDTH,
            TOP - 6, LEFT + WIDTH, bottom);
    fprintf(f, "<text class=\"tick\" x=\"%d\" y=\"%.1f\">%.2f</text>\n", LEFT + WIDTH, bottom + 16,
            a->limit);
    fprintf(f,
            "<text class=\"tick\" x=\"%d\" y=\"%.1f\">tokens a second (logarithmic; ends at read "
            "bandwidth / bytes a token)</text>\n",
            LEFT + WIDTH / 2, bottom + 36);
}

/* Where a bar is long enough its label stands in it; a device with memory of its own passes the
 * end. */
static void draw_bar(FILE *f, const axis *a, const table_row *row, int y)
{
    double      rate = 1 / row->token_s, end = place(a, rate);
    bool        inside = end - LEFT > 190;
    const char *note = rate > a->limit ? ", past the end" : row->computed ? " (computed)" : "";

    fprintf(f,
            "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>\n"
            "<text class=\"%s\" x=\"%.1f\" y=\"%d\">%.3g tok/s%s</text>\n",
            LEFT, y, end - LEFT > 1 ? end - LEFT : 1, BAR, inside ? "inside" : "value",
            inside ? end - 8 : end + 6, y + 15, rate, note);
}

static void draw_row(FILE *f, const axis *a, const table_row *row, int y)
{
    fprintf(f, "<text class=\"name\" x=\"%d\" y=\"%d\">%s</text>\n", LEFT - 10, y + 15, row->what);
    if (row->token_s > 0)
        draw_bar(f, a, row, y);
    else
        fprintf(f, "<text class=\"value\" x=\"%d\" y=\"%d\">not measured</text>\n", LEFT + 6,
                y + 15);
}

int table_draw(const cli_command *command, const char *path, const table_row *rows, size_t n,
               double limit, const char *title)
{
    axis  a = make_axis(rows, n, limit);
    int   bottom = TOP + ROW * (int)n;
    FILE *f = fopen(path, "w");
    bool  failed;

    if (!f)
        return cli_fail(command, CLI_FILE, "%s: cannot be written", path);
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "font-family=\"sans-serif\" font-size=\"13\">\n"
            "<style>rect{fill:#3b6ea5}.name{text-anchor:end}.inside{text-anchor:end;fill:white}."
            "tick{text-anchor:middle;fill:#555;"
            "font-size:12px}.grid{stroke:#ddd}.limit{stroke:#b03030;stroke-width:2}"
            ".title{font-size:16px;font-weight:bold}</style>\n"
            "<rect width=\"100%%\" height=\"100%%\" style=\"fill:white\"/>\n"
            "<text class=\"title\" x=\"20\" y=\"30\">%s</text>\n",
            LEFT + WIDTH + RIGHT, bottom + BOTTOM, title);
    draw_axis(f, &a, bottom);
    for (size_t i = 0; i < n; i++)
        draw_row(f, &a, &rows[i], TOP + ROW * (int)i);
    fprintf(f, "</svg>\n");
    failed = ferror(f) != 0;
    failed = fclose(f) != 0 || failed;
    return failed ? cli_fail(command, CLI_FILE, "%s: cannot be written", path) : 0;
}
