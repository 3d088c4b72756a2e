"""Counts what the prose and house rules of CONTRIBUTING.md forbid.

The files are those that git tracks, plus untracked ones that it does not ignore. Kinds:

  opening     a comment, a doc paragraph or a string that opens with a forbidden word
  word        a forbidden word in a comment, a Rust string or a Markdown page
  same-name   two types of one name in a crate, outside of tests
  long-file   a source file of more than 500 lines
  circle      files of one crate that import each other in a circle

Each exception stands in scripts/style-exceptions.txt with its reason. The exit code is 1 if anything
else is found, or if an exception matches nothing any more.

Usage: scripts/style.sh [--list KIND]... [PATH]...
  --list KIND   prints the places of these kinds only
  PATH          prints the places below these paths only (the counts and the exit code follow)
"""

import os
import subprocess
import sys
from collections import defaultdict

from modules import search_modules
from prose import search_rust, search_text
from rust import Rust

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EXCEPTIONS = os.path.join(ROOT, "scripts", "style-exceptions.txt")
MAX_LINES = 500
KINDS = {
    "opening": "openings with a forbidden word",
    "word": "forbidden words",
    "same-name": "types that share a name with another of their crate",
    "long-file": f"files of more than {MAX_LINES} lines",
    "circle": "circles of imports",
}


def read_exceptions():
    """Reads `KIND PLACE DETAIL... : REASON` lines. A circle's place is the list of its files."""
    found = []
    with open(EXCEPTIONS, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or line.startswith("#"):
                continue
            rule, separator, reason = line.strip().partition(" : ")
            kind, _, place = rule.partition(" ")
            if kind not in KINDS or not separator or not reason.strip():
                sys.exit(f"{EXCEPTIONS}:{number}: expected `KIND PLACE : REASON`, found: {line.strip()}")
            found.append({"kind": kind, "place": place.strip(), "line": number, "used": 0})
    return found


def excepted(exceptions, kind, path, detail):
    for exception in exceptions:
        if exception["kind"] != kind:
            continue
        # A circle is excepted if no file has joined it.
        fits = {
            "circle": lambda place: set(detail.split()) <= set(place.split()),
            "same-name": lambda place: place == detail,
            "long-file": lambda place: place == path,
        }.get(kind, lambda place: place == f"{path} {detail}")
        if fits(exception["place"]):
            exception["used"] += 1
            return True
    return False


def main():
    arguments = sys.argv[1:]
    kinds, below = [], []
    while arguments:
        argument = arguments.pop(0)
        if argument in ("-h", "--help"):
            print(__doc__.strip())
            return 0
        if argument == "--list":
            kinds.append(arguments.pop(0) if arguments else "")
            if kinds[-1] not in KINDS:
                sys.exit(f"--list takes one of: {', '.join(KINDS)}")
        else:
            below.append(os.path.relpath(os.path.abspath(argument), ROOT))

    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\n")
    exceptions = read_exceptions()
    found, allowed = defaultdict(list), defaultdict(int)

    def report(kind, path, line, detail, text):
        if excepted(exceptions, kind, path, detail):
            allowed[kind] += 1
        elif not below or any(
            place == "." or (path + "/").startswith(place + "/") for place in below
        ):
            found[kind].append((path, line, detail, text))

    files, manifests = {}, []
    for path in sorted(set(filter(None, listed))):
        full = os.path.join(ROOT, path)
        if not os.path.isfile(full):
            continue
        if os.path.basename(path) == "Cargo.toml":
            manifests.append(path)
        try:
            with open(full, encoding="utf-8") as file:
                text = file.read()
        except UnicodeDecodeError:
            continue
        if path.endswith(".rs"):
            files[path] = {"text": text, "rust": Rust(text)}
            search_rust(path, files[path]["rust"], report)
        else:
            search_text(path, text, report)
        if path.endswith((".rs", ".c", ".h", ".py", ".sh")) and text.count("\n") > MAX_LINES:
            report("long-file", path, 0, "", f"{text.count(chr(10))} lines")
    search_modules(files, manifests, report)

    for kind in kinds or KINDS:
        for path, line, detail, text in sorted(found[kind]):
            place = f"{path}:{line}" if line else path
            said = {"circle": text, "long-file": text}.get(kind, f"{detail} | {text}")
            print(f"{kind}: {place}: {said}")
    stale = [e for e in exceptions if not e["used"]]
    for exception in stale:
        print(f"scripts/style-exceptions.txt:{exception['line']}: matches nothing, remove it")
    for kind, title in KINDS.items():
        print(f"{len(found[kind]):6} {title}" + (f" (and {allowed[kind]} excepted)" if allowed[kind] else ""))
    return 1 if stale or any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
