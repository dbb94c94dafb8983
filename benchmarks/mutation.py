"""Mutation testing over the syntax tree: every small change of the code must make some test fail.

One mutant changes one place: an arithmetic, bit, comparison or boolean operator, a sign, a ``not``, a number (+1, -1),
a truth value, a string that is not the text of a message, ``min``/``max`` and their like, a call that only bounds or
cleans its argument (left out), what is returned (None), a statement (left out), the branches of a condition (swapped).
Annotations, type variables, decorators, a class's options, docstrings and f-strings stay as they are.

Each mutant runs in a fork of a process in which all tests are collected already, with the code of its function
exchanged, against the tests that touch its lines (by coverage's contexts), property tests last, and stops at the first
failure. A mutant of what runs at import (a default, a constant) gets a process of its own. Results are kept by mutant
in a file of JSON lines, so that a run can be taken up again: who survived is run again, who was killed is not.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib.abc
import importlib.util
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import coverage
import hypothesis
import pytest

CPU_LIMIT_S = 60  # of one mutant: a changed loop may not end
OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.Mod: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
NAMES = {
    "min": "max",
    "minimum": "maximum",
    "any": "all",
    "sin": "cos",
    "tan": "arctan",
    "arcsin": "arccos",
    "argmax": "argmin",
    "zeros": "ones",
}
NAMES |= {new: old for old, new in NAMES.items()}
BOUNDS = ("clip", "abs", "nan_to_num", "maximum", "minimum", "max", "min", "sqrt", "square")  # f(x, ...) -> x


@dataclass(frozen=True)
class Mutant:
    """One changed place of one module. ``key`` names it as long as its function stays as it is."""

    module: str
    scope: str
    line: int
    last_line: int
    change: str
    key: str
    index: int  # position in ``make_mutants``


@dataclass(frozen=True)
class Target:
    """A module, its file, and the functions and classes to change; all of them where none is named."""

    module: str
    path: Path
    only: tuple[str, ...] = ()


def find_changes(node: ast.AST) -> Iterator[tuple[str, Callable[[], None]]]:
    """What can be changed at one node of a tree: a description, and the function that does it in place."""

    def put(field: str, value: object) -> Callable[[], None]:
        return lambda: setattr(node, field, value)

    match node:
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign():
            for new in OPERATORS.get(type(node.op), ()):
                yield f"{_name(node.op)} -> {new.__name__}", put("op", new())
        case ast.Compare():
            for place, op in enumerate(node.ops):
                for new in OPERATORS.get(type(op), ()):
                    ops = [*node.ops[:place], new(), *node.ops[place + 1 :]]  # type: ignore[list-item]
                    yield f"{_name(op)} -> {new.__name__}", put("ops", ops)
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert()):
            yield f"{_name(node.op)} left out", _become(node, node.operand)
        case ast.Constant(value=bool()):
            yield f"{node.value} -> {not node.value}", put("value", not node.value)
        case ast.Constant(value=int() | float()):
            yield f"{node.value} + 1", put("value", node.value + 1)
            yield f"{node.value} - 1", put("value", node.value - 1)
        case ast.Constant(value=str()):
            yield f"{node.value!r} + 'X'", put("value", node.value + "X")
        case ast.Return(value=ast.expr()) if not _is_none(node.value):
            yield "return None", put("value", ast.Constant(None))
        case ast.If():
            yield "branches swapped", put("test", ast.UnaryOp(ast.Not(), node.test))
        case ast.IfExp():
            yield "branches swapped", put("test", ast.UnaryOp(ast.Not(), node.test))
        case ast.Attribute(attr=attr) if attr in NAMES:
            yield f"{attr} -> {NAMES[attr]}", put("attr", NAMES[attr])
        case ast.Name(id=name) if name in NAMES:
            yield f"{name} -> {NAMES[name]}", put("id", NAMES[name])
    if isinstance(node, ast.Call) and node.args:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in BOUNDS:
            yield f"{called}(x, ...) -> x", _become(node, node.args[0])
    for field in ("body", "orelse"):
        block = getattr(node, field, None)
        if isinstance(block, list):
            for place, statement in enumerate(block):
                if _is_removable(statement):
                    rest = [*block[:place], ast.copy_location(ast.Pass(), statement), *block[place + 1 :]]
                    yield f"left out: {ast.unparse(statement).splitlines()[0]}", put(field, rest)


def make_mutants(target: Target) -> Iterator[tuple[Mutant, ast.Module]]:
    """Every mutant of a module with its changed tree."""
    text = target.path.read_text()
    places = list(_places(ast.parse(text), target.only))
    index = 0
    keys: list[str] = []
    for number, (scope, span, source) in enumerate(places):
        for choice in range(len(list(find_changes(source)))):
            tree = ast.parse(text)
            _, _, node = list(_places(tree, target.only))[number]
            change, apply = list(find_changes(node))[choice]
            line = getattr(node, "lineno", span[0])
            last = max(getattr(node, "end_lineno", line) or line, line)
            if change.startswith("left out: "):
                block = [s for f in ("body", "orelse") for s in getattr(node, f, []) if change.endswith(_first(s))]
                line, last = block[0].lineno, block[0].end_lineno or block[0].lineno
            apply()
            ast.fix_missing_locations(tree)
            where = f"{target.module}:{scope}:{line - span[0]}:{getattr(node, 'col_offset', 0)}:{change}"
            body = hashlib.sha256("\n".join(text.splitlines()[span[0] - 1 : span[1]]).encode()).hexdigest()[:12]
            again = sum(1 for key in keys if key.startswith(f"{where}:{body}"))  # a - b - c begins twice at a
            keys.append(f"{where}:{body}" + (f":{again}" if again else ""))
            yield Mutant(target.module, scope, line, last, change, keys[-1], index), tree
            index += 1


def _places(tree: ast.Module, only: Sequence[str]) -> Iterator[tuple[str, tuple[int, int], ast.AST]]:
    """Nodes that may be changed, each with the top-level definition that holds it and its lines."""
    for top in tree.body:
        name = getattr(top, "name", "")
        if isinstance(top, ast.Import | ast.ImportFrom) or (only and name not in only):
            continue
        if isinstance(top, ast.If) and ast.unparse(top.test) == "TYPE_CHECKING":
            continue
        if _is_text(top) or _is_type_variable(top):
            continue
        span = (top.lineno, top.end_lineno or top.lineno)
        for node in _walk(top):
            yield name or "module", span, node


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Like ``ast.walk``, in source order, without annotations, decorators, docstrings, imports and f-strings."""
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "keywords") and not isinstance(node, ast.Call):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom) or not isinstance(child, ast.AST):
                continue
            if not _is_text(child):
                yield from _walk(child)


def _become(node: ast.AST, other: ast.AST) -> Callable[[], None]:
    """Put ``other`` in the place of ``node``, which its parent still refers to."""

    def apply() -> None:
        inner = copy.deepcopy(other)
        node.__class__ = inner.__class__
        node.__dict__ = inner.__dict__

    return apply


def _name(op: ast.AST) -> str:
    return type(op).__name__


def _first(statement: ast.AST) -> str:
    return ast.unparse(statement).splitlines()[0]


def _is_removable(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.AnnAssign):
        return isinstance(statement.target, ast.Attribute)  # a field of a class is no statement
    return isinstance(statement, ast.Expr | ast.Assign | ast.AugAssign | ast.Raise) and not _is_text(statement)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_type_variable(node: ast.AST) -> bool:
    call = node.value if isinstance(node, ast.Assign) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "TypeVar"


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


OPTIONS = ("-q", "-s", "--no-header", "--tb=no", "--disable-warnings")
OPTIONS += tuple(word for plugin in ("cacheprovider", "timeout", "xdist") for word in ("-p", f"no:{plugin}"))


def fix_examples() -> None:
    """The same examples for every mutant: a property that fails now and then must not count as a kill."""
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None, deadline=None)
    hypothesis.settings.load_profile("mutants")


def exchange_code(target: Target, tree: ast.Module) -> bool:
    """Give the functions of the imported module their changed code; False when none differs."""
    module = sys.modules[target.module]
    changed = {}
    stack = [compile(tree, str(target.path), "exec")]
    while stack:
        for inner in stack.pop().co_consts:
            if isinstance(inner, CodeType):
                changed[inner.co_qualname] = inner
                stack.append(inner)
    found = False
    for function in _functions(module):
        new = changed.get(function.__code__.co_qualname)
        if new is not None and function.__code__.co_filename == str(target.path) and new != function.__code__:
            function.__code__ = new
            found = True
    return found


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    for value in vars(module).values():
        for member in [value, *(vars(value).values() if isinstance(value, type) else ())]:
            for inner in (member, *(getattr(member, name, None) for name in ("__func__", "fget", "func"))):
                if isinstance(inner, FunctionType):
                    yield inner


class FirstFailure:
    """A plugin of pytest that remembers which test failed first."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.name:
            self.name = f"import of {report.nodeid}"


class MutationRun:
    """A plugin of pytest that runs every mutant in place of every test; ``results`` holds what came of it, by key.

    ``quick`` leaves the property tests out: most mutants die without them, and who survives is run again anyway.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        store: Path,
        say: Callable[[str], None] = print,
        choose: Callable[[Mutant], bool] = lambda mutant: True,
        quick: bool = False,
    ) -> None:
        self._targets = targets
        self._store = store
        self._say = say
        self._choose = choose
        self._quick = quick
        self.results: dict[str, dict[str, Any]] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Failed("the tests cannot be collected")
        known = {}
        if self._store.exists():
            known = {row["key"]: row for row in map(json.loads, self._store.read_text().splitlines())}
        examples = [item for item in session.items if item.get_closest_marker("hypothesis") is None]
        items = examples if self._quick else examples + [item for item in session.items if item not in examples]
        lines = self._recall_lines(items)
        with self._store.open("a") as log:
            for target in self._targets:
                for mutant, tree in make_mutants(target):
                    if not self._choose(mutant):
                        continue
                    row = known.get(mutant.key)
                    if row is None or not row["killed_by"]:
                        here = lines[target.module]
                        touching = {
                            i for line in range(mutant.line, mutant.last_line + 1) for i in here.get(str(line), ())
                        }
                        killed_by = self._run(target, tree, [items[i] for i in sorted(touching)], items)
                        row = {"key": mutant.key, "module": mutant.module, "scope": mutant.scope}
                        row |= {"change": mutant.change, "killed_by": killed_by}
                        log.write(json.dumps(row) + "\n")
                        log.flush()
                        if not killed_by:
                            self._say(f"survived: {target.path.name}:{mutant.line} {mutant.scope}: {mutant.change}")
                    self.results[mutant.key] = row | {"line": mutant.line}
        return True

    def _recall_lines(self, items: Sequence[pytest.Item]) -> dict[str, dict[str, list[int]]]:
        """``_map_lines``, from the file beside the store where code, tests and their order are the same."""
        files = [*(target.path for target in self._targets), *dict.fromkeys(item.path for item in items)]
        seen = hashlib.sha256(b"".join(file.read_bytes() for file in files))
        seen.update("\n".join(item.nodeid for item in items).encode())
        kept = self._store.with_suffix(".lines.json")
        if kept.exists() and (found := json.loads(kept.read_text()))["of"] == seen.hexdigest():
            return found["lines"]  # type: ignore[no-any-return]
        lines = in_fork(lambda: self._map_lines(items))
        kept.write_text(json.dumps({"of": seen.hexdigest(), "lines": lines}))
        return lines  # type: ignore[no-any-return]

    def _map_lines(self, items: Sequence[pytest.Item]) -> dict[str, dict[str, list[int]]]:
        """Module -> line -> indices of the tests that run it."""
        first = FirstFailure()
        measure = coverage.Coverage(data_file=None, include=[str(t.path) for t in self._targets], config_file=False)
        measure.start()
        for index, item in enumerate(items):
            measure.switch_context(str(index))
            _run_items([item], first)
        measure.stop()
        if first.name:
            raise RuntimeError(f"without any mutation {first.name} fails")
        data = measure.get_data()
        return {
            target.module: {
                str(line): [int(index) for index in contexts if index]
                for line, contexts in data.contexts_by_lineno(str(target.path)).items()
            }
            for target in self._targets
        }

    def _run(
        self, target: Target, tree: ast.Module, touching: Sequence[pytest.Item], items: Sequence[pytest.Item]
    ) -> str:
        """Which test kills the mutant; "" when it survives."""

        def work() -> str | None:
            if not exchange_code(target, tree):
                return None
            first = FirstFailure()
            _run_items(touching, first)
            return first.name

        try:
            killed_by = in_fork(work)
        except EOFError:
            return "its process ended, or did not end"
        if killed_by is not None:
            return str(killed_by)
        files = list(dict.fromkeys(str(item.path) for item in items))
        return run_at_import(target, tree, files)


def _run_items(items: Sequence[pytest.Item], first: FirstFailure) -> None:
    for item, following in zip(items, [*items[1:], None], strict=True):
        manager = item.config.pluginmanager
        manager.register(first)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        manager.unregister(first)
        if first.name:
            return


def run_at_import(target: Target, tree: ast.Module, files: Sequence[str]) -> str:
    """Which test kills a mutant that is in place from the import on; "" when it survives."""
    code = f"import mutation; mutation.main({target.module!r}, {str(target.path)!r}, {list(files)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=ast.unparse(tree),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        preexec_fn=_limit_cpu,
    )
    return done.stdout.rpartition("killed by: ")[2].strip() if "killed by: " in done.stdout else "its process ended"


def main(module: str, path: str, files: Sequence[str]) -> None:
    """The process of ``run_at_import``: changed source on standard input."""
    fix_examples()
    sys.meta_path.insert(0, _Replaced(module, path, sys.stdin.read()))
    first = FirstFailure()
    code = pytest.main(["-x", *OPTIONS, *files], plugins=[first])
    print("killed by:", "" if code == 0 else first.name or f"pytest ended with code {int(code)}")


class _Replaced(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module another source."""

    def __init__(self, module: str, path: str, source: str) -> None:
        self._module, self._path, self._source = module, path, source

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Any:
        if fullname != self._module:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, self._path, "exec"), module.__dict__)


def in_fork(work: Callable[[], Any]) -> Any:
    """The JSON-able result of ``work`` in a forked process that prints nothing; EOFError when it gives none."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _limit_cpu()
        try:
            with os.fdopen(writer, "wb") as stream:
                stream.write(json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read()
    os.waitpid(pid, 0)
    if not data:
        raise EOFError
    return json.loads(data)


def _limit_cpu() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S + 1))
