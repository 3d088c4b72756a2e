"""Finds forbidden openings and words in comments, strings and Markdown pages."""

import os
import re

OPENINGS = re.compile(r"(What|Whether|Whose|That which)\b")
WORDS = re.compile(
    r"\b(of which|of whom|anew|seldom|shall|those of|none of ours|the former|is told|it is said)\b",
    re.IGNORECASE,
)
# Text between backticks quotes code, or the forbidden words themselves.
CODE_SPAN = re.compile(r"`[^`]*`")


def paragraphs(lines):
    """Joins (line, marker, text) of adjacent lines into paragraphs: (line, text)."""
    found, current, last = [], None, None
    in_fence = False
    for line, marker, text in lines:
        stripped = text.strip()
        if stripped.startswith("```"):
            in_fence = not in_fence
            current = None
            continue
        if in_fence:
            continue
        adjacent = current is not None and last == (line - 1, marker)
        begins_item = re.match(r"(?:[-*+]|\d+\.|#+|\|)\s", stripped)
        if not stripped:
            current = None
        elif adjacent and not begins_item:
            current.append((line, stripped))
        else:
            current = [(line, re.sub(r"^(?:[-*+]|\d+\.|#+|\|)\s+", "", stripped))]
            found.append(current)
        last = (line, marker)
    return found


def search_paragraph(path, paragraph, report, openings):
    """Reports forbidden words, which may span lines, at the line on which they begin."""
    offsets, text = [], ""
    for line, part in paragraph:
        offsets.append((len(text), line))
        text += part + " "
    blanked = CODE_SPAN.sub(lambda m: "`" + "x" * (len(m[0]) - 2) + "`", text)
    if openings and (m := OPENINGS.match(blanked)):
        report("opening", path, paragraph[0][0], m[1], text[:90])
    for m in WORDS.finditer(blanked):
        line = [number for offset, number in offsets if offset <= m.start()][-1]
        around = text[max(m.start() - 35, 0) : m.end() + 35]
        report("word", path, line, m[1].lower(), around)


def search_rust(path, rust, report):
    for paragraph in paragraphs(rust.comments):
        search_paragraph(path, paragraph, report, openings=True)
    for line, text in rust.strings:
        text = re.sub(r"\\n|\\\n\s*", " ", text)
        lines = [(line + n, part) for n, part in enumerate(text.split("\n"))]
        search_paragraph(path, lines, report, openings=True)


def hash_comments(text):
    for number, line in enumerate(text.split("\n"), 1):
        if m := re.match(r"(?:.*\s)?(##?)\s(.*)", line) if "#" in line else None:
            yield number, "#", m[2]


def search_text(path, text, report):
    name = os.path.basename(path)
    if path.endswith(".md"):
        lines = [(n, "", line) for n, line in enumerate(text.split("\n"), 1)]
        for paragraph in paragraphs(lines):
            search_paragraph(path, paragraph, report, openings=False)
    elif path.endswith((".c", ".h")):
        comments = []
        for m in re.finditer(r"/\*.*?\*/|//[^\n]*", text, re.DOTALL):
            first = text.count("\n", 0, m.start()) + 1
            for n, line in enumerate(m[0].split("\n")):
                comments.append((first + n, "/*", re.sub(r"^\s*(/\*+|//+|\*+/?)|\*/\s*$", "", line)))
        for paragraph in paragraphs(comments):
            search_paragraph(path, paragraph, report, openings=True)
    elif path.endswith((".toml", ".yaml", ".yml", ".sh", ".py", ".tpl")) or name in (
        "Makefile",
        "Dockerfile",
        "run",
        ".gitignore",
    ):
        for paragraph in paragraphs(list(hash_comments(text))):
            search_paragraph(path, paragraph, report, openings=True)
