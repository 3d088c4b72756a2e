"""Finds types that share a name and circles of imports, by the module tree of each crate.

A name is followed through re-exports to the file that defines it, so a `mod.rs` that only hands
names on imports nothing. A method that a child file adds to its parent's type is no import either.
"""

import os
import re
from collections import defaultdict

def matching_brace(code, open_at):
    depth = 0
    for m in re.finditer(r"[{}]", code[open_at:]):
        depth += 1 if m[0] == "{" else -1
        if depth == 0:
            return open_at + m.end()
    return len(code)


ATTRIBUTES = r"(?P<attributes>(?:\#!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\s*)*)"
MOD = re.compile(ATTRIBUTES + r"(?:pub(?:\([^)]*\))?\s+)?\bmod\s+(?P<name>\w+)\s*(?P<end>[;{])")
IS_TEST = re.compile(r"\bcfg\s*\(\s*(?:test|all\s*\(\s*test|all\s*\(\s*loom\s*,\s*test)\b")


class Module:
    """One module of a crate: its file, its own code, its children and the names it imports."""

    def __init__(self, path, code, parent, name, test):
        self.path, self.code, self.parent, self.name, self.test = path, code, parent, name, test
        self.children, self.imports, self.globs, self.public = {}, {}, [], set()

    def root(self):
        return self if self.parent is None else self.parent.root()

    def all(self):
        yield self
        for child in self.children.values():
            yield from child.all()


def load_module(path, code, parent, name, test, folder, files):
    """Builds the module tree below one file. `folder` is where the file's child modules are."""
    module = Module(path, code, parent, name, test)
    kept, at = [], 0
    while m := MOD.search(code, at):
        child_test = test or bool(IS_TEST.search(m["attributes"]))
        end = m.end()
        kept.append(code[at : m.start()])
        if m["end"] == "{":
            end = matching_brace(code, m.end() - 1)
            inner = load_module(
                path, code[m.end() : end - 1], module, m["name"], child_test,
                os.path.join(folder, m["name"]), files,
            )
            module.children[m["name"]] = inner
        else:
            # The strings are blanked, so a path attribute is found in the text of the file.
            given = re.search(
                r'path\s*=\s*"([^"]+)"\s*\]\s*(?:\#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?mod\s+'
                + m["name"] + r"\s*;",
                files[path]["text"],
            )
            candidates = (
                [os.path.normpath(os.path.join(os.path.dirname(path), given[1]))] if given else []
            ) + [os.path.join(folder, m["name"] + ".rs"), os.path.join(folder, m["name"], "mod.rs")]
            for candidate in candidates:
                if candidate in files:
                    below = os.path.join(folder, m["name"])
                    if given:
                        below = os.path.dirname(candidate)
                    module.children[m["name"]] = load_module(
                        candidate, files[candidate]["rust"].code, module, m["name"], child_test,
                        below, files,
                    )
                    break
        kept.append(re.sub(r"[^\n]", " ", code[m.start() : end]))
        at = end
    kept.append(code[at:])
    module.code = "".join(kept)
    read_imports(module)
    return module


USE = re.compile(r"(?P<public>\bpub(?:\([^)]*\))?\s+)?\buse\s+(?P<tree>[^;]+);")


def use_leaves(tree, prefix=()):
    """Yields (path, local name) for each leaf of a use tree; the name of a glob is `*`."""
    tree = tree.strip()
    if m := re.match(r"^(.*?)\{(.*)\}$", tree, re.DOTALL):
        before = [s for s in re.split(r"\s*::\s*", m[1].strip()) if s]
        depth, start, parts = 0, 0, []
        for i, c in enumerate(m[2]):
            depth += c == "{"
            depth -= c == "}"
            if c == "," and depth == 0:
                parts.append(m[2][start:i])
                start = i + 1
        parts.append(m[2][start:])
        for part in parts:
            if part.strip():
                yield from use_leaves(part, prefix + tuple(before))
        return
    path, _, alias = re.sub(r"\s+", " ", tree).partition(" as ")
    segments = prefix + tuple(s for s in re.split(r"\s*::\s*", path.strip()) if s)
    if segments and segments[-1] == "self" and len(segments) > 1:
        segments = segments[:-1]
    if segments:
        yield segments, (alias.strip() or segments[-1])


def read_imports(module):
    def remember(m):
        for path, local in use_leaves(m["tree"]):
            if local == "*":
                module.globs.append(path[:-1])
            else:
                module.imports[local] = path
                if m["public"]:
                    module.public.add(local)
        return re.sub(r"[^\n]", " ", m[0])

    module.body = USE.sub(remember, module.code)


def walk(module, segments, seen=frozenset()):
    """Returns the module that holds the item of a path, and whether the path names a module."""
    if not segments:
        return module, True
    if (id(module), segments) in seen:
        return None, False
    seen = seen | {(id(module), segments)}
    first, rest = segments[0], segments[1:]
    if first == "crate":
        return walk(module.root(), rest, seen)
    if first == "self":
        return walk(module, rest, seen)
    if first == "super":
        return walk(module.parent, rest, seen) if module.parent else (None, False)
    if first in module.children:
        return walk(module.children[first], rest, seen)
    if first in module.imports:
        path = module.imports[first]
        # `use serde::serde` and the like: the first segment is a crate from outside.
        if path[0] == first:
            return None, False
        return walk(module, path + rest, seen)
    if defines(module, first):
        return module, False
    for glob in module.globs:
        holder, is_module = walk(module, glob, seen)
        if holder is not None and is_module and holder is not module:
            found, found_module = walk(holder, segments, seen)
            if found is not None:
                return found, found_module
    return None, False


def defines(module, name):
    return re.search(
        r"\b(?:struct|enum|union|trait|type|fn|const|static|macro_rules!)\s+(?:mut\s+)?"
        + re.escape(name) + r"\b",
        module.body,
    )


PATH = re.compile(r"(?<![\w:])((?:crate|self|super|[a-z_]\w*)(?:::\w+)+)(?!\w|\s*!|::)")


def edges_of(module):
    """Yields the files that a module takes something from, with the name it takes."""
    for local, path in module.imports.items():
        holder, is_module = walk(module, path)
        if holder is None or is_module:
            continue
        # A name that is only handed on is no use of it: who imports it is led to its owner.
        if local in module.public and not re.search(rf"\b{re.escape(local)}\b", module.body):
            continue
        yield holder.path, "::".join(path)
    for glob in module.globs:
        holder, _ = walk(module, glob)
        if holder is not None and not (holder.parent is module):
            yield holder.path, "::".join(glob) + "::*"
    for m in PATH.finditer(module.body):
        segments = tuple(m[1].split("::"))
        if segments[0] == "self" or segments[0] not in ("crate", "super"):
            if segments[0] not in module.children and segments[0] not in module.imports:
                if segments[0] != "self":
                    continue
        # The tail may be an associated item: the longest path that leads to a module decides.
        for end in range(len(segments), 0, -1):
            holder, is_module = walk(module, segments[:end])
            if holder is not None:
                if not is_module:
                    yield holder.path, m[1]
                break


def circles(graph):
    """Returns the strongly connected components of more than one file (Tarjan, iterative)."""
    index, low, on_stack, stack, found, counter = {}, {}, set(), [], [], 0
    for start in sorted(graph):
        if start in index:
            continue
        work = [(start, iter(sorted(graph.get(start, ()))))]
        index[start] = low[start] = counter
        counter += 1
        stack.append(start)
        on_stack.add(start)
        while work:
            node, successors = work[-1]
            for successor in successors:
                if successor not in index:
                    index[successor] = low[successor] = counter
                    counter += 1
                    stack.append(successor)
                    on_stack.add(successor)
                    work.append((successor, iter(sorted(graph.get(successor, ())))))
                    break
                if successor in on_stack:
                    low[node] = min(low[node], index[successor])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.append(member)
                        if member == node:
                            break
                    if len(component) > 1:
                        found.append(sorted(component))
    return found


TYPE = re.compile(r"(?<![\w.:$])(?:struct|enum|union|trait|type)\s+(\w+)")


def item_level(code):
    """Blanks out what stands between braces: associated types and local items are no items."""
    out, depth, at = [], 0, 0
    for m in re.finditer(r"[{}]", code):
        part = code[at : m.start()]
        out.append(part if depth == 0 else re.sub(r"[^\n]", " ", part))
        depth += 1 if m[0] == "{" else -1
        at = m.start() + 1
        out.append(" ")
    out.append(code[at:] if depth == 0 else "")
    return "".join(out)


def crate_roots(files, manifests):
    """Yields (package folder, root file, is a test) for each crate that cargo builds."""
    for manifest in manifests:
        package = os.path.dirname(manifest)
        for path in files:
            if package and not path.startswith(package + "/"):
                continue
            below = path[len(package) + 1 :] if package else path
            if below in ("src/lib.rs", "src/main.rs") or re.fullmatch(
                r"src/bin/(\w+\.rs|\w+/main\.rs)|fuzz_targets/\w+\.rs", below
            ):
                yield package, path, False
            elif re.fullmatch(r"(tests|benches|examples)/([\w-]+\.rs|[\w-]+/main\.rs)", below):
                yield package, path, True


def search_modules(files, manifests, report):
    for package, root, root_is_test in crate_roots(files, manifests):
        folder = os.path.dirname(root)
        module = load_module(
            root, files[root]["rust"].code, None, "crate", root_is_test, folder, files
        )
        graph, why = defaultdict(set), {}
        types = defaultdict(list)
        for each in module.all():
            if not each.test:
                for m in TYPE.finditer(item_level(each.code)):
                    types[m[1]].append(each.path)
            if each.test and not root_is_test:
                continue
            for target, name in edges_of(each):
                if target != each.path:
                    graph[each.path].add(target)
                    why.setdefault((each.path, target), name)
        for name, places in sorted(types.items()):
            if len(places) > 1:
                report("same-name", places[0], 0, f"{package}:{name}", ", ".join(places))
        for component in circles(graph):
            members = set(component)
            arrows = [
                f"\n      {a} -> {b} ({why[a, b]})"
                for a in component
                for b in sorted(graph[a])
                if b in members
            ]
            report("circle", component[0], 0, " ".join(component), f"{len(component)} files" + "".join(arrows))
