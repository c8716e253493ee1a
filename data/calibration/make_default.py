#!/usr/bin/env python3
"""Makes default.txt, the calibration text that the library carries.

    make_default.py ENGLISH GUTENBERG_FOLDER PROJECT > default.txt

ENGLISH is a text of public-domain English prose, GUTENBERG_FOLDER holds de_alice.txt,
fr_monte_cristo_1.txt, es_don_quixote.txt and it_pinocchio.txt as Project Gutenberg has them, PROJECT
is this repository. Parts of every kind are cut into blocks, and blocks are put in such an order that
every stretch of the text holds all kinds in proportion: compression looks at evenly spread windows,
and at the first ones alone for the plan. PROVENANCE.md says what was taken.
"""
import json
import pathlib
import random
import re
import sys

BLOCK = 2600  # bytes: a little more than a window of 512 tokens
SHARES = {  # bytes of each kind
    "english": 430000, "code": 24000, "docs": 12000, "json": 10000, "tables": 10000,
    "dialogue": 7000, "german": 10000, "french": 10000, "spanish": 10000, "italian": 10000,
    "languages": 7000,
}


def spread(text, size):
    """Blocks that begin at paragraphs, evenly spread over a text, `size` bytes in all."""
    n = max(1, round(size / BLOCK))
    starts = [m.end() for m in re.finditer(r"\n\n+", text)] or [0]
    blocks = []
    for i in range(n):
        at = starts[i * len(starts) // n]
        part = text[at:at + 2 * BLOCK].encode()[:size // n].decode(errors="ignore")
        cut = max(part.rfind("\n"), part.rfind(". ") + 1)
        blocks.append(part[:cut if cut > len(part) // 2 else len(part)].strip() + "\n\n")
    return blocks


def book(path):
    """A Gutenberg book without its licence, with each paragraph on one line."""
    text = path.read_text(encoding="utf-8-sig").replace("\r", "")
    text = text.split("*** START OF", 1)[1].split("***", 1)[1].split("*** END OF", 1)[0]
    paragraphs = [re.sub(r"\s*\n\s*", " ", p).strip() for p in re.split(r"\n\s*\n", text)]
    keep = [p.replace("_", "") for p in paragraphs
            if len(p) > 40 and not re.search(r"\[Illustration|Gutenberg|Produced by|pgdp", p)]
    return "\n\n".join(keep[len(keep) // 50:])


def records(rng):
    """JSON as programs write it: records, nested settings, logs."""
    names = ["Ada", "Noor", "Jonas", "Mei", "Lucía", "Petr", "Amara", "Tom"]
    places = ["Berlin", "Porto", "Kyoto", "Lagos", "Lima", "Oslo", "Pune", "Austin"]
    blocks = []
    while sum(map(len, blocks)) < SHARES["json"]:
        rows = [{"id": rng.randrange(1000, 99999), "name": rng.choice(names),
                 "city": rng.choice(places), "score": round(rng.random() * 100, 2),
                 "active": rng.random() < .7, "tags": rng.sample(["new", "vip", "trial", "eu"], 2)}
                for _ in range(6)]
        settings = {"version": f"{rng.randrange(5)}.{rng.randrange(20)}.{rng.randrange(10)}",
                    "server": {"host": "127.0.0.1", "port": rng.randrange(1024, 65535),
                               "timeout_ms": rng.choice([250, 1000, 30000])},
                    "limits": {"max_items": rng.randrange(10, 500), "retry": None},
                    "paths": ["/var/lib/app", f"/tmp/cache-{rng.randrange(100)}"]}
        log = "\n".join(json.dumps({"time": f"2024-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
                                            f"T{rng.randrange(24):02}:{rng.randrange(60):02}:00Z",
                                    "level": rng.choice(["info", "info", "warn", "error"]),
                                    "message": rng.choice(["request done", "cache miss",
                                                           "connection closed", "disk is 91 % full"]),
                                    "ms": rng.randrange(1, 900)}) for _ in range(5))
        blocks.append(json.dumps(rows, indent=2, ensure_ascii=False) + "\n\n" +
                      json.dumps(settings, indent=4) + "\n\n" + log + "\n\n")
    return blocks


def tables(rng):
    """Sums, number words, Markdown tables, lists, dates."""
    units = "one two three four five six seven eight nine ten eleven twelve".split()
    blocks = []
    while sum(map(len, blocks)) < SHARES["tables"]:
        lines = []
        for _ in range(8):
            a, b = rng.randrange(2, 999), rng.randrange(2, 99)
            lines.append(rng.choice([f"{a} + {b} = {a + b}", f"{a} - {b} = {a - b}",
                                     f"{a} × {b} = {a * b}", f"{a * b} / {b} = {a}",
                                     f"{b} % of {a} is {a * b / 100:g}."]))
        i, j = rng.randrange(12), rng.randrange(12)
        lines.append(f"A box holds {units[i]} apples. In {units[j]} boxes there are "
                     f"{i + 1} × {j + 1} = {(i + 1) * (j + 1)} apples.")
        lines += ["", "| item | price | quantity | total |", "| --- | ---: | ---: | ---: |"]
        for item in rng.sample(["paper", "ink", "lamp", "chair", "cable", "clock", "map"], 4):
            price, n = rng.randrange(50, 9999) / 100, rng.randrange(1, 20)
            lines.append(f"| {item} | {price:.2f} | {n} | {price * n:.2f} |")
        lines += ["", "year,month,rain_mm,temperature_c"]
        for m in range(1, 7):
            lines.append(f"{rng.randrange(1990, 2024)},{m},{rng.randrange(5, 140)},"
                         f"{rng.randrange(-50, 300) / 10}")
        steps = rng.sample(["Open the lid", "Check the oil", "Wait two minutes", "Close the valve",
                            "Write down the number", "Turn the key", "Clean the filter"], 4)
        lines += [""] + [f"{k}. {s}." for k, s in enumerate(steps, 1)] + [""]
        blocks.append("\n".join(lines) + "\n")
    return blocks


def files(root, patterns):
    paths = sorted(p for pattern in patterns for p in root.glob(pattern))
    return "\n\n".join(p.read_text() for p in paths)


def main():
    english, books, project = map(pathlib.Path, sys.argv[1:])
    here = pathlib.Path(__file__).parent / "parts"
    rng = random.Random(1)
    kinds = {
        "english": spread(english.read_text(), SHARES["english"]),
        "code": spread(files(project, ["src/*/*.c", "src/*/*.h", "scripts/*.py", "tests/cli/*.py"]),
                       SHARES["code"]),
        "docs": spread(files(project, ["docs/*.md", "*.md"]), SHARES["docs"]),
        "json": records(rng),
        "tables": tables(rng),
        "dialogue": ["User:" + d.removeprefix("User:").strip("\n") + "\n\n" for d in
                     (here / "dialogue.txt").read_text().split("\n\nUser:")],
        "german": spread(book(books / "de_alice.txt"), SHARES["german"]),
        "french": spread(book(books / "fr_monte_cristo_1.txt"), SHARES["french"]),
        "spanish": spread(book(books / "es_don_quixote.txt"), SHARES["spanish"]),
        "italian": spread(book(books / "it_pinocchio.txt"), SHARES["italian"]),
        "languages": [b.strip() + "\n\n" for b in
                      re.split(r"\[[a-z]{2}\]\n", (here / "languages.txt").read_text()) if b.strip()],
    }
    # Each kind's i-th block of n has the place (i + 1/2) / n: kinds run beside each other.
    order = sorted(((i + .5) / len(blocks), kind, i) for kind, blocks in kinds.items()
                   for i in range(len(blocks)))
    sys.stdout.write("".join(kinds[kind][i] for _, kind, i in order))


if __name__ == "__main__":
    main()
