/* quality_page.c: the report as one HTML page that needs nothing else: style and plots (SVG) stand
 * in it. What was not measured is said not to have been, never drawn. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "quality.h"
#include "report.h"

/* Colours that differ in lightness too. */
static const char *const colours[CLI_ROLE_COUNT] = { "#444444", "#1b6ca8", "#58a6d6",
                                                     "#0b3d5c", "#c8790a", "#2e8b57",
                                                     "#7fc8a0", "#a83232", "#888888" };

/* A plot's frame: x is the layer, y from `low` to `high`, linear or logarithmic. */
typedef struct plot {
    FILE       *out;
    double      low, high;
    bool        logarithmic;
    uint32_t    layers;
    const char *unit;
} plot;

enum { WIDTH = 640, HEIGHT = 260, LEFT = 58, RIGHT = 10, TOP = 12, BOTTOM = 30 };

static void escaped(FILE *out, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            fputc(*text, out);
        }
}

static double x_of(const plot *p, uint32_t layer)
{
    double span = p->layers > 1 ? p->layers - 1 : 1;

    return LEFT + (WIDTH - LEFT - RIGHT) * (layer + (p->layers > 1 ? 0 : .5)) / span;
}

static double y_of(const plot *p, double value)
{
    double at = p->logarithmic ? log(value / p->low) / log(p->high / p->low)
                               : (value - p->low) / (p->high - p->low);

    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * at;
}

static void grid_line(const plot *p, double value)
{
    fprintf(p->out,
            "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>"
            "<text x=\"%d\" y=\"%.1f\" class=\"y\">%g</text>\n",
            LEFT, WIDTH - RIGHT, y_of(p, value), y_of(p, value), LEFT - 6, y_of(p, value) + 4,
            value);
}

static void frame(const plot *p)
{
    uint32_t step = p->layers > 20 ? (p->layers + 9) / 10 : p->layers > 10 ? 2 : 1;

    fprintf(p->out, "<svg viewBox=\"0 0 %d %d\" role=\"img\">\n", WIDTH, HEIGHT);
    if (p->logarithmic) {
        for (double decade = pow(10, floor(log10(p->low))); decade <= p->high; decade *= 10)
            for (int k = 1; k < 10; k += k == 1 ? 1 : k == 2 ? 3 : 5)
                if (decade * k >= p->low && decade * k <= p->high)
                    grid_line(p, decade * k);
    } else {
        for (double value = ceil(p->low); value <= p->high; value++)
            grid_line(p, value);
    }
    for (uint32_t layer = 0; layer < p->layers; layer += step)
        fprintf(p->out, "<text x=\"%.1f\" y=\"%d\" class=\"x\">%" PRIu32 "</text>\n",
                x_of(p, layer), HEIGHT - 12, layer);
    fprintf(p->out, "<text x=\"%d\" y=\"%d\" class=\"x\">layer; %s</text>\n", WIDTH / 2, HEIGHT,
            p->unit);
}

static double value_of(const cli_matrix_quality *m, bool error)
{
    return error ? m->error : m->bits;
}

static void draw_role(const plot *p, const cli_quality *q, cli_role role, bool error)
{
    fprintf(p->out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"",
            colours[role]);
    for (uint32_t layer = 0; layer < p->layers; layer++) {
        const cli_matrix_quality *m = cli_quality_find(q, role, layer);

        if (m && value_of(m, error) > 0)
            fprintf(p->out, "%.1f,%.1f ", x_of(p, layer), y_of(p, value_of(m, error)));
    }
    fputs("\"/>\n", p->out);
    for (uint32_t layer = 0; layer < p->layers; layer++) {
        const cli_matrix_quality *m = cli_quality_find(q, role, layer);

        if (m && value_of(m, error) > 0)
            fprintf(p->out,
                    "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"><title>%s, layer %" PRIu32
                    ": %.5g</title></circle>\n",
                    x_of(p, layer), y_of(p, value_of(m, error)), colours[role],
                    cli_role_label(role), layer, value_of(m, error));
    }
}

static void legend(FILE *out)
{
    fputs("<p class=\"legend\">", out);
    for (int r = 0; r < CLI_ROLE_COUNT; r++)
        if (cli_role_in_layers((cli_role)r))
            fprintf(out, "<span style=\"color:%s\">&#9632; %s</span> ", colours[r],
                    cli_role_label((cli_role)r));
    fputs("</p>\n", out);
}

/* Errors or rates of all layers' matrices; says so when there are none. */
static void layer_plot(FILE *out, const cli_quality *q, bool error)
{
    plot p = {
        out, INFINITY, 0, error, q->info.layers, error ? "relative error" : "bits per weight"
    };

    for (size_t i = 0; i < q->n_matrices; i++) {
        double value = value_of(&q->matrices[i], error);

        if (cli_role_in_layers(q->matrices[i].role) && value > 0) {
            p.low = fmin(p.low, value);
            p.high = fmax(p.high, value);
        }
    }
    if (!(p.high > 0)) {
        fputs("<p>Not measured: this file was not made by compression.</p>\n", out);
        return;
    }
    p.low = error ? p.low * .8 : floor(p.low);
    p.high = error ? p.high * 1.25 : ceil(p.high + 1e-9);
    frame(&p);
    for (int r = 0; r < CLI_ROLE_COUNT; r++)
        if (cli_role_in_layers((cli_role)r))
            draw_role(&p, q, (cli_role)r, error);
    fputs("</svg>\n", out);
    legend(out);
}

/* One bar for a value of at most `most`. */
static void bar(FILE *out, const char *label, double value, double most, const char *colour,
                const char *text)
{
    fprintf(
        out,
        "<tr><th>%s</th><td class=\"bar\"><svg viewBox=\"0 0 400 14\" preserveAspectRatio="
        "\"none\"><rect width=\"%.1f\" height=\"14\" fill=\"%s\"/></svg></td><td>%s</td></tr>\n",
        label, most > 0 ? 400 * value / most : 0, colour, text);
}

static void bytes_plot(FILE *out, const cli_quality *q)
{
    double most = 0;
    char   size[CLI_SIZE_TEXT], text[128];

    for (int r = 0; r < CLI_ROLE_COUNT; r++)
        most = fmax(most, (double)cli_quality_of_role(q, (cli_role)r).bytes);
    fputs("<table class=\"bars\">\n", out);
    for (int r = 0; r < CLI_ROLE_COUNT; r++) {
        cli_matrix_quality sum = cli_quality_of_role(q, (cli_role)r);

        if (sum.weights == 0)
            continue;
        snprintf(text, sizeof text, "%s, %.3f bits per weight", cli_size_text(sum.bytes, size),
                 sum.bits);
        bar(out, cli_role_label((cli_role)r), (double)sum.bytes, most, colours[r], text);
    }
    fputs("</table>\n", out);
}

static double figure(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void evaluation_part(FILE *out, const cli_quality *q)
{
    const json_t *e = q->evaluation;
    char          text[64];
    double        worst;

    fputs("<h2>On text</h2>\n", out);
    if (!e) {
        fputs("<p>Not measured: the file was not run on a text when it was compressed "
              "(<code>upg compress --eval TEXT</code>).</p>\n",
              out);
        return;
    }
    fprintf(out,
            "<p>%.0f tokens in %.0f windows of %.0f, the same for this file and the original. "
            "Text: XXH3-128 <code>",
            figure(e, "tokens"), figure(e, "windows"), figure(e, "window"));
    escaped(out, json_string_value(json_object_get(e, "text_xxh3"))
                     ? json_string_value(json_object_get(e, "text_xxh3"))
                     : "");
    fputs("</code>.</p>\n<table class=\"bars\">\n", out);
    worst = fmax(figure(e, "perplexity"), figure(e, "original_perplexity"));
    snprintf(text, sizeof text, "%.4f", figure(e, "original_perplexity"));
    bar(out, "perplexity, original", figure(e, "original_perplexity"), worst, "#888888", text);
    snprintf(text, sizeof text, "%.4f (ratio %.4f)", figure(e, "perplexity"),
             figure(e, "ppl_ratio"));
    bar(out, "perplexity, this file", figure(e, "perplexity"), worst, "#1b6ca8", text);
    snprintf(text, sizeof text, "%.2f %%", 100 * figure(e, "retention"));
    bar(out, "retention", figure(e, "retention"), fmax(1, figure(e, "retention")), "#2e8b57", text);
    snprintf(text, sizeof text, "%.2f %%", 100 * figure(e, "top1_agreement"));
    bar(out, "top-1 agreement", figure(e, "top1_agreement"), 1, "#2e8b57", text);
    snprintf(text, sizeof text, "%.6f nats", figure(e, "kl_mean"));
    bar(out, "KL, mean", figure(e, "kl_mean"), figure(e, "kl_p99"), "#a83232", text);
    snprintf(text, sizeof text, "%.6f nats", figure(e, "kl_p99"));
    bar(out, "KL, 99th percentile", figure(e, "kl_p99"), figure(e, "kl_p99"), "#a83232", text);
    fputs("</table>\n<p>Retention is the original's perplexity divided by this file's.</p>\n", out);
}

static void size_part(FILE *out, const cli_quality *q)
{
    char file[CLI_SIZE_TEXT], weights[CLI_SIZE_TEXT], source[CLI_SIZE_TEXT];

    fputs("<h2>Size</h2>\n<table>\n", out);
    fprintf(out, "<tr><th>parameters</th><td>%" PRIu64 "</td></tr>\n", q->info.parameters);
    fprintf(out, "<tr><th>file</th><td>%s, %.4f bits per parameter</td></tr>\n",
            cli_size_text(q->info.file_bytes, file), q->info.bits_per_parameter);
    fprintf(out, "<tr><th>weights</th><td>%s, %.4f bits per weight</td></tr>\n",
            cli_size_text(q->info.weight_bytes, weights),
            q->info.parameters ? 8 * (double)q->info.weight_bytes / (double)q->info.parameters : 0);
    fprintf(out, "<tr><th>against fp32</th><td>%.2f : 1</td></tr>\n", q->info.ratio_fp32);
    fprintf(out, "<tr><th>against the checkpoint</th><td>%.2f : 1 (%s as shipped)</td></tr>\n",
            q->info.ratio_source, cli_size_text(q->info.source_bytes, source));
    fputs("</table>\n", out);
}

static void matrix_table(FILE *out, const cli_quality *q)
{
    fputs("<h2>Every matrix</h2>\n<table class=\"all\">\n<tr><th>layer</th><th>matrix</th>"
          "<th>weights</th><th>bytes</th><th>bits</th><th>relative error</th></tr>\n",
          out);
    for (size_t i = 0; i < q->n_matrices; i++) {
        const cli_matrix_quality *m = &q->matrices[i];

        fputs("<tr><td>", out);
        if (cli_role_in_layers(m->role))
            fprintf(out, "%" PRIu32, m->layer);
        fprintf(out, "</td><td>%s</td><td>%" PRIu64 "</td><td>%" PRIu64 "</td><td>%.4f</td><td>",
                cli_role_label(m->role), m->weights, m->bytes, m->bits);
        if (m->error >= 0)
            fprintf(out, "%.6f", m->error);
        else
            fputs("not measured", out);
        fputs("</td></tr>\n", out);
    }
    fputs("</table>\n", out);
}

void cli_write_quality_page(FILE *out, const char *title, const cli_quality *q)
{
    fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<title>", out);
    escaped(out, title);
    fputs("</title>\n<style>\n"
          "body{font:16px/1.5 system-ui,sans-serif;max-width:46em;margin:2em auto;padding:0 1em;"
          "color:#222;background:#fff}\n"
          "h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}\n"
          "table{border-collapse:collapse}th{text-align:left;font-weight:600;padding-right:1em}\n"
          "table.all td,table.all th{border-bottom:1px solid #ddd;padding:.1em .7em;"
          "text-align:right}\n"
          ".bar{width:14em}.bar svg{width:14em;height:14px;display:block}td{padding-right:1em}\n"
          "svg text{font-size:11px;fill:#555}.y{text-anchor:end}.x{text-anchor:middle}\n"
          ".grid{stroke:#e4e4e4}.legend span{margin-right:.8em}\n"
          "</style></head>\n<body>\n<h1>",
          out);
    escaped(out, title);
    fprintf(out, "</h1>\n<p>%s, %" PRIu32 " layers. Every figure was measured.</p>\n",
            q->info.architecture, q->info.layers);
    evaluation_part(out, q);
    size_part(out, q);
    fputs(
        "<h2>Error of every matrix</h2>\n<p>|W &minus; W&prime;|&sup2; / |W|&sup2;, measured when "
        "it was compressed; embedding and head stand in the table below.</p>\n",
        out);
    layer_plot(out, q, true);
    fputs("<h2>Rate of every matrix</h2>\n", out);
    layer_plot(out, q, false);
    fputs("<h2>Bytes by role</h2>\n", out);
    bytes_plot(out, q);
    matrix_table(out, q);
    fputs("</body></html>\n", out);
}
