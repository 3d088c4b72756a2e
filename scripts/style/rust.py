"""Takes Rust source apart into code, comments and strings."""

import re
from bisect import bisect_right

TOKEN = re.compile(
    r"""
      (?P<line>//[^\n]*)
    | (?P<block>/\*)
    | (?P<raw>\b(?:b|c|br|cr|r)?r(?P<hashes>\#*)"|\bb?r(?P<hashes2>\#*)")
    | (?P<string>"(?:\\.|[^"\\])*")
    | (?P<char>'(?:\\[^\n']*'|\\'+'|[^'\\\n]'))
    """,
    re.VERBOSE | re.DOTALL,
)


class Rust:
    """A Rust file, taken apart: `code` is the text with comments and strings blanked out."""

    def __init__(self, text):
        self.comments = []  # (line, marker, text)
        self.strings = []  # (line, text)
        self.starts = [0] + [m.end() for m in re.finditer("\n", text)]
        out, at = [], 0
        while True:
            m = TOKEN.search(text, at)
            if not m:
                break
            start, end = m.span()
            if m["line"] is not None:
                self._comment(start, text[start:end])
            elif m["block"] is not None:
                end = self._block_end(text, start)
                body = text[start + 2 : max(end - 2, start + 2)]
                self.comments.append((self.line(start), "/*", body.lstrip("*!")))
            elif m["raw"] is not None:
                hashes = m["hashes"] or m["hashes2"] or ""
                close = text.find('"' + hashes, end)
                close = len(text) if close < 0 else close
                self.strings.append((self.line(start), text[end:close]))
                end = close + 1 + len(hashes)
            elif m["string"] is not None:
                self.strings.append((self.line(start), text[start + 1 : end - 1]))
            out.append(text[at:start])
            out.append(re.sub(r"[^\n]", " ", text[start:end]))
            at = end
        out.append(text[at:])
        self.code = "".join(out)

    def line(self, offset):
        return bisect_right(self.starts, offset)

    def _comment(self, start, text):
        marker = re.match(r"///(?!/)|//!|//+", text)[0]
        self.comments.append((self.line(start), marker, text[len(marker) :]))

    @staticmethod
    def _block_end(text, start):
        depth, at = 0, start
        for m in re.finditer(r"/\*|\*/", text[start:]):
            depth += 1 if m[0] == "/*" else -1
            at = start + m.end()
            if depth == 0:
                return at
        return len(text)
