#!/usr/bin/env python3
"""Compares the options in the manual page with those that the program has, both ways, and the exit
codes with `upg help exit-codes`.

usage: man_page.py UPG MAN_PAGE
"""
import re
import subprocess
import sys


def output(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def program_options(upg, command):
    """{"--name": "-n" or ""} from the help text."""
    options = {}
    for line in output(upg, "help", command).splitlines():
        match = re.match(r"  (?:-(.), |   ) *--([a-z0-9-]+)", line)
        if match:
            options["--" + match.group(2)] = "-" + match.group(1) if match.group(1) else ""
    return options


def page_options(page):
    """{section: {"--name": "-n" or ""}} from .Ss headings and .It Fl lines."""
    sections, current = {}, None
    for line in page.splitlines():
        if line.startswith(".Ss "):
            current = sections.setdefault(line[4:].strip(), {})
        elif line.startswith(".Sh "):
            current = None
        match = re.match(r"\.It (?:Fl (\w) , )?Fl Fl ([a-z0-9-]+)", line)
        if match and current is not None:
            current["--" + match.group(2)] = "-" + match.group(1) if match.group(1) else ""
    return sections


# Commands that take the whole command line of another one.
SAME_OPTIONS = {"plan": "compress"}


def main():
    upg, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        page = file.read()
    sections = page_options(page)
    shared = {name: sections.pop(name) for name in ("Model options", "Sampling options")}
    commands = re.findall(r"^  (\w+) +\w", output(upg, "help"), re.MULTILINE)
    commands = [name for name in commands if name != "upg"]
    errors = []
    if sorted(commands) != sorted(sections):
        errors.append(f"commands: program {sorted(commands)}, page {sorted(sections)}")
    for command in commands:
        have = program_options(upg, command)
        have.pop("--help")
        said = dict(sections.get(SAME_OPTIONS.get(command, command), {}))
        for title, options in shared.items():
            if set(options) <= set(have):
                said.update(options)
            elif set(options) & set(have) - set(said):
                errors.append(f"{command}: has only a part of the {title}")
        if have != said:
            errors.append(f"{command}: program {sorted(set(have.items()) - set(said.items()))}, "
                          f"page {sorted(set(said.items()) - set(have.items()))}")
    codes = set(re.findall(r"^ *(\d+)  ", output(upg, "help", "exit-codes"), re.MULTILINE))
    said = set(re.findall(r"^\.It (\d+)", page, re.MULTILINE))
    if codes != said:
        errors.append(f"exit codes: program {sorted(codes)}, page {sorted(said)}")
    for error in errors:
        print(error)
    print(f"{len(commands)} commands compared")
    return 1 if errors or not commands else 0


if __name__ == "__main__":
    sys.exit(main())
