"""Code on a page, pulled from `code/` by its dotted name; and the files it is from.

The source is read as text: a listing of a Triton kernel needs neither Triton nor torch.
"""

from __future__ import annotations

import ast
import html
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from bookkit.claims import inline_code

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class NoSuchObject(LookupError):
    """A dotted name that `code/` does not define."""


@dataclass(frozen=True)
class Source:
    """The text of one object of `code/`."""

    name: str
    file: Path
    first: int  # line numbers in the file, from 1
    last: int
    text: str


def find_source(name: str, source_root: Path, *, docstring: bool = True) -> Source:
    """The source of a module, function, class, method or constant.

    A name that a module imports from another one is followed to where it is defined.

    Raises:
        NoSuchObject: no such module, or nothing of that name in it.
    """
    file, rest = find_module(name, source_root)
    text = file.read_text(encoding="utf-8")
    if not rest:
        return Source(name, file, 1, text.count("\n"), text.rstrip())
    tree = ast.parse(text)
    node: ast.Module | ast.stmt = tree
    for depth, part in enumerate(rest):
        body = getattr(node, "body", [])
        found = _definition(body, part)
        if found is None:
            target = _import_target(body, part, name, rest, file, source_root)
            if target and depth == 0:
                return find_source(target, source_root, docstring=docstring)
            raise NoSuchObject(f"{name}: {file.name} defines no {part!r}")
        node = found
    assert isinstance(node, ast.stmt)
    lines = text.splitlines()
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)])
    last = node.end_lineno or first
    kept = list(range(first, last + 1))
    if not docstring and isinstance(node, Definition):
        kept = _without_docstring(node, kept)
    shown = textwrap.dedent("\n".join(lines[number - 1] for number in kept))
    return Source(name, file, first, last, shown)


def find_module(name: str, source_root: Path) -> tuple[Path, list[str]]:
    """The file of the longest module that starts the name, and what is left of it."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        base = source_root.joinpath(*parts[:count])
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                return file, parts[count:]
    raise NoSuchObject(f"{name}: no such module in {source_root.name}/")


def _definition(body: list[ast.stmt], name: str) -> ast.stmt | None:
    for node in body:
        if isinstance(node, Definition) and node.name == name:
            return node
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(t, ast.Name) and t.id == name for t in targets):
                return node
        if isinstance(node, ast.If | ast.Try):
            found = _definition([*node.body, *node.orelse], name)
            if found:
                return found
    return None


def _import_target(
    body: list[ast.stmt],
    part: str,
    name: str,
    rest: list[str],
    file: Path,
    source_root: Path,
) -> str | None:
    """Where `from m import part` in this file takes the name from."""
    for node in body:
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if (alias.asname or alias.name) == part:
                package = file.relative_to(source_root).parent.parts
                if node.level:
                    package = package[: len(package) - node.level + 1]
                    module = ".".join([*package, *(node.module or "").split(".")])
                else:
                    module = node.module or ""
                target = ".".join([module.strip("."), alias.name, *rest[1:]])
                return target if target != name else None
    return None


def _without_docstring(node: Definition, lines: list[int]) -> list[int]:
    first = node.body[0]
    if ast.get_docstring(node) is None or len(node.body) == 1:
        return lines
    following = node.body[1]
    decorators = getattr(following, "decorator_list", [])
    resume = min([following.lineno, *(d.lineno for d in decorators)])
    # Comments between the docstring and the next statement stay.
    dropped = range(first.lineno, (first.end_lineno or first.lineno) + 1)
    return [
        n for n in lines if n not in dropped and not (n == dropped[-1] + 1 < resume)
    ]


class ListingDirective(SphinxDirective):
    """``{listing} package.module.object``: its source, with a link to the file."""

    required_arguments = 1
    option_spec = {
        "without-docstring": directives.flag,
        "caption": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0].strip()
        root = Path(self.env.srcdir)
        keep = "without-docstring" not in self.options
        try:
            source = find_source(name, root / "code", docstring=keep)
        except (NoSuchObject, SyntaxError) as error:
            raise self.error(f"listing: {error}") from error
        self.env.note_dependency(str(source.file))
        path = source.file.relative_to(root).as_posix()
        code = nodes.literal_block(source.text, source.text, language="python3")
        self.set_source_info(code)
        link = listing_link(path=path, name=name, line=source.first)
        link["caption"] = self.options.get("caption", "")
        link["alone"] = self._alone(name, root / "code")
        return [nodes.container("", link, code, classes=["listing"])]

    def _alone(self, name: str, source_root: Path) -> str:
        from bookkit.bundle import CannotBundle, bundle  # which imports from here

        try:
            script = bundle(name, source_root)
        except CannotBundle:
            return ""
        for file in script.files:
            self.env.note_dependency(str(file))
        return script.text


class listing_link(nodes.General, nodes.Element):
    """Becomes the heading of a listing once the address of the page is known."""


def link_to_html(app: Any, node: nodes.Element, from_page: str) -> str:
    target = app.builder.get_relative_uri(from_page, node["path"].removesuffix(".py"))
    caption = f" — {inline_code(node['caption'])}" if node["caption"] else ""
    head = (
        f'<p class="listing-head"><code>{html.escape(node["name"])}</code>{caption} '
        f'<a href="{target}#L-{node["line"]}">{html.escape(node["path"])}</a>'
    )
    if not node["alone"]:
        return head + "</p>"
    # JSON, in which `</` cannot end the element.
    text = json.dumps(node["alone"], ensure_ascii=False).replace("</", "<\\/")
    return (
        head
        + '<button type="button" class="copy-alone">copy with what it needs</button>'
        f'</p><script type="application/json" class="alone">{text}</script>'
    )


def source_pages(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file under `code/`, highlighted, with an anchor for each line."""
    root = Path(app.srcdir)
    for file in sorted((root / "code").rglob("*.py")):
        path = file.relative_to(root).as_posix()
        text = file.read_text(encoding="utf-8")
        body = app.builder.highlighter.highlight_block(
            text, "python3", location=path, lineanchors="L", anchorlinenos=False
        )
        # Places, not links: a link without a name is read out as its address.
        body = re.sub(r'<a id="(L-\d+)"[^>]*></a>', r'<span id="\1"></span>', body)
        context = {
            "title": path,
            "body": f'<section class="source-file"><h1>{path}</h1>{body}</section>',
        }
        yield path.removesuffix(".py"), context, "page.html"
