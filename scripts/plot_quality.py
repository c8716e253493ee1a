#!/usr/bin/env python3
"""Draws docs/quality.svg: KL divergence over bits per parameter, ours beside the peers' points.

usage: plot_quality.py > docs/quality.svg

Reads docs/results/quality-*.jsonl (scripts/quality_campaign.sh) and docs/results/peers.json. No
packages needed: the SVG is written as text.
"""
import glob
import json
import math
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 380, 64, 48, 30
X_RANGE = (2.0, 5.4)


def load():
    models = {}
    for path in sorted(glob.glob(str(ROOT / "docs/results/quality-*.jsonl"))):
        for line in open(path, encoding="utf-8"):
            row = json.loads(line)
            if row["tag"] == "default":
                models.setdefault(row["model"], []).append((row["bpw"], row["kl_mean"]))
    peers = json.loads((ROOT / "docs/results/peers.json").read_text(encoding="utf-8"))
    return models, peers


def panel(name, ours, peers, x0):
    values = [kl for _, kl in ours] + [p["kl"] for p in peers]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    plot_w, plot_h = WIDTH - LEFT - 20, HEIGHT - TOP - BOTTOM

    def x(bpw):
        return x0 + LEFT + (bpw - X_RANGE[0]) / (X_RANGE[1] - X_RANGE[0]) * plot_w

    def y(kl):
        return TOP + (high - math.log10(kl)) / (high - low) * plot_h

    out = [f'<text x="{x0 + LEFT}" y="18" class="t">{name}: KL(original || compressed), nats</text>']
    for decade in range(low, high + 1):
        v = 10.0**decade
        out.append(f'<line x1="{x(X_RANGE[0])}" y1="{y(v):.1f}" x2="{x(X_RANGE[1])}" '
                   f'y2="{y(v):.1f}" class="g"/>')
        out.append(f'<text x="{x0 + LEFT - 6}" y="{y(v) + 4:.1f}" class="a e">{v:g}</text>')
    for i in range(5, 28):
        bpw = i / 5
        if X_RANGE[0] <= bpw <= X_RANGE[1] and i % 2 == 0:
            out.append(f'<text x="{x(bpw):.1f}" y="{HEIGHT - 28}" class="a m">{bpw:g}</text>')
    out.append(f'<text x="{x0 + LEFT + plot_w / 2}" y="{HEIGHT - 8}" class="a m">'
               "bits per parameter, all tensors</text>")
    for p in peers:
        out.append(f'<circle cx="{x(p["bpw"]):.1f}" cy="{y(p["kl"]):.1f}" r="3.5" class="p">'
                   f'<title>{p["type"]}</title></circle>')
        out.append(f'<text x="{x(p["bpw"]) + 5:.1f}" y="{y(p["kl"]) - 4:.1f}" class="s">'
                   f'{p["short"]}</text>')
    ours = sorted(ours)
    points = " ".join(f"{x(b):.1f},{y(k):.1f}" for b, k in ours)
    out.append(f'<polyline points="{points}" class="o"/>')
    for b, k in ours:
        out.append(f'<circle cx="{x(b):.1f}" cy="{y(k):.1f}" r="4" class="u">'
                   f"<title>upg {b}: {k:.4f}</title></circle>")
    return out


def main():
    models, peers = load()
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * len(models)}" '
          f'height="{HEIGHT}" font-family="sans-serif">')
    print("<style>.t{font-size:14px;font-weight:bold}.a{font-size:11px}.m{text-anchor:middle}"
          ".e{text-anchor:end}.g{stroke:#ddd}.p{fill:#b0563c}.s{font-size:9px;fill:#7a3a28}"
          ".o{fill:none;stroke:#1f5fa8;stroke-width:2}.u{fill:#1f5fa8}</style>")
    print(f'<rect width="{WIDTH * len(models)}" height="{HEIGHT}" fill="white"/>')
    for i, (name, ours) in enumerate(models.items()):
        print("\n".join(panel(name, ours, peers.get(name, []), i * WIDTH)))
    print("</svg>")


main()
