"""A listing with what it needs: a script that runs where nothing of ours is installed.

From an object of `code/` the names that it uses are followed, through the modules of
`code/` that define them, down to imports of other libraries. What was reached is
written out in an order in which Python can run it.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

from bookkit.listing import NoSuchObject, find_module

HEADER = "# {name}, with what it needs. From the book Under the Hood, MIT license.\n"
Binding = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class CannotBundle(ValueError):
    """The object does not stand alone as text: it needs a file, or a name means two
    things in the modules that it reaches."""


@dataclass(frozen=True)
class Script:
    """A listing that runs alone, and the files of `code/` that it is made from."""

    text: str
    files: list[Path]


@dataclass(frozen=True)
class Import:
    """`from module import name as local`; `name` is empty for `import module`."""

    module: str
    name: str
    statement: str


@dataclass
class Module:
    """A file of `code/`: what binds each of its names."""

    name: str
    file: Path
    lines: list[str]
    body: list[ast.stmt]
    statements: dict[str, ast.stmt] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)


@dataclass
class Bundle:
    """What has been reached so far."""

    source_root: Path
    modules: dict[str, Module] = field(default_factory=dict)
    kept: dict[str, set[ast.stmt]] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)  # local name -> import
    aliases: dict[str, str] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)  # name -> module


def bundle(name: str, source_root: Path) -> Script:
    """The source of `name` and of everything in `source_root` that it uses.

    Args:
        name: dotted name of a function, class or constant, or of a method (its class
            is taken then).

    Raises:
        NoSuchObject: no such module, or nothing of that name in it.
        CannotBundle: see there.
    """
    found = Bundle(source_root)
    file, rest = find_module(name, source_root)
    home = _module_name(file, source_root)
    if not rest:
        raise CannotBundle(f"{name}: a whole module is copied as a file")
    _reach(found, home, rest[0])
    text = HEADER.format(name=name) + _written(found)
    return Script(text, [module.file for module in found.modules.values()])


def _reach(found: Bundle, module_name: str, name: str) -> str:
    """Keep what binds `name` in a module; the name that the bundle knows it by."""
    module = _load(found, module_name)
    if name in module.statements:
        if found.owner.setdefault(name, module_name) != module_name:
            other = found.owner[name]
            raise CannotBundle(f"`{name}` is defined in {other} and in {module_name}")
        _keep(found, module, module.statements[name])
        return name
    if name not in module.imports:
        raise NoSuchObject(f"{module_name} defines no {name!r}")
    target = module.imports[name]
    if not _is_own(found, target.module):
        known = found.external.setdefault(name, target.statement)
        if known != target.statement:
            raise CannotBundle(f"`{name}` is imported in two ways")
        return name
    if not target.name or _is_own(found, f"{target.module}.{target.name}"):
        raise CannotBundle(f"{module_name} uses the module {name} as an object")
    original = _reach(found, target.module, target.name)
    if original != name:
        found.aliases[name] = original
    return name


def _keep(found: Bundle, module: Module, statement: ast.stmt) -> None:
    kept = found.kept.setdefault(module.name, set())
    if statement in kept:
        return
    kept.add(statement)
    for name in _names_used(statement):
        if name == "__file__":
            raise CannotBundle(f"{module.name} reads files beside it")
        if name in module.statements or name in module.imports:
            _reach(found, module.name, name)
    # What is registered with a kept object belongs to it: `@operator.register_fake`.
    for other in module.body:
        if _registers_with(other) & _names_bound(statement):
            _keep(found, module, other)


def _load(found: Bundle, name: str) -> Module:
    if name in found.modules:
        return found.modules[name]
    file, rest = find_module(name, found.source_root)
    if rest:
        raise NoSuchObject(f"no module {name}")
    text = file.read_text(encoding="utf-8")
    module = Module(name, file, text.splitlines(), ast.parse(text).body)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for statement in module.body:
        inside = [statement]
        if _is_type_checking(statement):
            assert isinstance(statement, ast.If)
            inside = statement.body
        for one in inside:
            if isinstance(one, ast.Import | ast.ImportFrom):
                module.imports |= _imports(one, package)
            else:
                for bound in _names_bound(one):
                    module.statements.setdefault(bound, one)
    found.modules[name] = module
    return module


def _imports(statement: ast.Import | ast.ImportFrom, package: str) -> dict[str, Import]:
    made = {}
    for alias in statement.names:
        renamed = f" as {alias.asname}" if alias.asname else ""
        if isinstance(statement, ast.Import):
            local = alias.asname or alias.name.partition(".")[0]
            made[local] = Import(alias.name, "", f"import {alias.name}{renamed}")
        else:
            parts = package.split(".")[: len(package.split(".")) - statement.level + 1]
            base = ".".join(parts) if statement.level else ""
            module = ".".join(filter(None, [base, statement.module or ""]))
            line = f"from {module} import {alias.name}{renamed}"
            made[alias.asname or alias.name] = Import(module, alias.name, line)
    return made


def _names_bound(statement: ast.stmt) -> set[str]:
    """The names that a statement at the top of a module binds."""
    if isinstance(statement, Binding):
        return {statement.name}
    if isinstance(statement, ast.If | ast.Try):
        inside = [*statement.body, *statement.orelse]
        for handler in getattr(statement, "handlers", []):
            inside += handler.body
        return set().union(*(_names_bound(part) for part in inside))
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {a.asname or a.name.partition(".")[0] for a in statement.names}
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        return {
            node.id
            for node in ast.walk(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
    return set()


def _names_used(statement: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _registers_with(statement: ast.stmt) -> set[str]:
    """`a` for `@a.register` above a function and for `a.register(...)` by itself."""
    if isinstance(statement, Binding):
        makers = statement.decorator_list
    elif isinstance(statement, ast.Expr):
        makers = [statement.value]
    else:
        return set()
    roots = set()
    for maker in makers:
        attribute = maker.func if isinstance(maker, ast.Call) else maker
        if isinstance(attribute, ast.Attribute):
            value = attribute.value
            roots |= {value.id} if isinstance(value, ast.Name) else set()
    return roots


def _written(found: Bundle) -> str:
    parts = ["from __future__ import annotations"]
    future = "from __future__ import"
    lines = {line for line in found.external.values() if not line.startswith(future)}
    if lines:
        parts.append("\n".join(sorted(lines, key=lambda line: (line[0] == "f", line))))
    for name in _needed_first(found):
        module, kept = found.modules[name], found.kept[name]
        for statement in module.body:
            if statement in kept:
                parts.append(_source(module, statement))
        for alias, original in found.aliases.items():
            if found.owner.get(original) == name:
                parts.append(f"{alias} = {original}")
    return "\n\n\n".join(parts) + "\n"


def _needed_first(found: Bundle) -> list[str]:
    """The modules of which something is kept, each after those that it imports."""
    ordered: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen or name not in found.modules:
            return
        seen.add(name)
        for target in found.modules[name].imports.values():
            visit(target.module)
        ordered.append(name)

    for name in found.kept:
        visit(name)
    return [name for name in ordered if name in found.kept]


def _source(module: Module, statement: ast.stmt) -> str:
    """The lines of a statement, with the comments right above it."""
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(node.lineno for node in decorators)])
    while first > 1 and module.lines[first - 2].startswith("#"):
        first -= 1
    return "\n".join(module.lines[first - 1 : statement.end_lineno])


def _is_own(found: Bundle, module: str) -> bool:
    try:
        return not find_module(module, found.source_root)[1]
    except NoSuchObject:
        return False


def _is_type_checking(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(
        statement.test
    )


def _module_name(file: Path, source_root: Path) -> str:
    parts = file.relative_to(source_root).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")
