"""What importing kpeft costs, and which module may import which."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kpeft

PACKAGE = Path(kpeft.__file__).parent
HEAVY = {"keras", "keras_hub", "jax", "tensorflow", "tensorflow_datasets", "matplotlib", "optax", "scipy", "torch"}

# Layers of the library, lowest first; a module imports from its own layer and from those below.
LAYERS = (
    (
        "kpeft._version",
        "kpeft.files",
        "kpeft.families",
        "kpeft.hub",
        "kpeft.ops",
        "kpeft.quantization",
        "kpeft.runtime",
        "kpeft.hardware",
    ),
    ("kpeft.adapter_files",),
    ("kpeft.layers",),
    ("kpeft.graphs", "kpeft.sites", "kpeft.recast", "kpeft.frontier", "kpeft.lengthened", "kpeft.live"),
    ("kpeft.targets",),
    ("kpeft.methods",),
    ("kpeft.quantized_model",),
    ("kpeft.adaptation",),
    ("kpeft.placing",),
    ("kpeft.adapters", "kpeft.glue", "kpeft.config", "kpeft.defaults", "kpeft.listing", "kpeft.results"),
    ("kpeft.at_once", "kpeft.summary", "kpeft.named", "kpeft.warm_start", "kpeft.report"),
    ("kpeft.backbones", "kpeft.training"),
    ("kpeft.data", "kpeft.distillation", "kpeft.masked_text"),
    ("kpeft.masked_lm",),
    ("kpeft.experiment",),
    ("kpeft.shared_model", "kpeft.many_runs"),
    ("kpeft.run",),
)
# What --help reads: imports nothing heavy at module level, and so nothing that does.
LIGHT = (
    "_version",
    "run",
    "runtime",
    "hub",
    "adapter_files",
    "config",
    "at_once",
    "summary",
    "defaults",
    "listing",
    "report",
    "results",
    "hardware",
    "families",
    "glue/tasks",
    "methods",
)


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["kpeft", *path.relative_to(PACKAGE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, *, inside_functions: bool) -> Iterator[str]:
    """Yields the names of the modules that a file imports, those for type checkers left out."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{name.name}" for name in node.names)
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if for_types or (isinstance(node, ast.FunctionDef) and not inside_functions):
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


def layer_of(module: str) -> int | None:
    return next(
        (
            number
            for number, names in enumerate(LAYERS)
            if any(module == name or module.startswith(f"{name}.") for name in names)
        ),
        None,
    )


def in_fresh_python(code: str) -> set[str]:
    """Returns the top-level modules that `code` loads."""
    code += "; import sys; sys.stdout.write(' '.join({name.partition('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    assert HEAVY & in_fresh_python("import kpeft; dir(kpeft); kpeft.LoRA(rank=4), kpeft.METHODS, kpeft.TASKS") == set()


def test_help_and_list_load_nothing_heavy() -> None:
    code = "import sys, io; out, sys.stdout = sys.stdout, io.StringIO(); from kpeft.run import main, make_parser; "
    code += "assert '--rank' in make_parser().format_help(); assert main(['--list']) == 0; sys.stdout = out"
    assert (HEAVY | {"numpy"}) & in_fresh_python(code) == set()


def test_a_report_loads_nothing_heavy_but_matplotlib() -> None:
    code = (
        "import sys, io; out, sys.stdout = sys.stdout, io.StringIO(); from kpeft.report.__main__ import make_parser; "
    )
    code += "make_parser().format_help(); sys.stdout = out"
    assert HEAVY & in_fresh_python(code) == set()


def test_the_runner_puts_keras_on_jax_whatever_keras_json_says(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text('{"backend": "tensorflow"}')
    code = "from kpeft import runtime; runtime.prepare(); import keras; assert keras.backend.backend() == 'jax'"
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    subprocess.run([sys.executable, "-c", code], check=True, env={**environment, "KERAS_HOME": str(tmp_path)})


def test_every_module_has_a_place() -> None:
    assert [name for name in modules() if name != "kpeft" and layer_of(name) is None] == []


@pytest.mark.parametrize("module", [name for name in modules() if name != "kpeft"])
def test_imports_go_one_way(module: str) -> None:
    own = layer_of(module)
    assert own is not None
    for name in imports(modules()[module], inside_functions=not module.startswith("kpeft.methods")):
        layer = layer_of(name)
        assert layer is None or layer <= own, f"{module} imports {name}"


def test_methods_import_upwards_only_where_they_are_used() -> None:
    """The table of methods costs no Keras; `wraps` and `trained` may reach sideways for the layers and targets."""
    for module, path in modules().items():
        if module.startswith("kpeft.methods"):
            below = {name for name in imports(path, inside_functions=True) if name.startswith("kpeft.")}
            names = ("methods", "layers", "targets", "sites", "lengthened", "families")
            allowed = tuple(f"kpeft.{name}" for name in names)
            assert {name for name in below if not name.startswith(allowed)} == set()


@pytest.mark.parametrize(
    "path", [path for name in LIGHT for path in sorted(PACKAGE.glob(f"{name}.py")) + sorted(PACKAGE.glob(f"{name}/*"))]
)
def test_light_modules_import_nothing_heavy(path: Path) -> None:
    if path.suffix == ".py":
        top = {name.partition(".")[0] for name in imports(path, inside_functions=False)}
        assert top & HEAVY == set()


def test_nothing_imports_the_runner() -> None:
    for module, path in modules().items():
        names = set(imports(path, inside_functions=True))
        assert "kpeft.run" not in names
        if module not in ("kpeft", "kpeft.run", "kpeft.many_runs", "kpeft.shared_model"):
            assert "kpeft.experiment" not in names


def test_public_names() -> None:
    assert set(kpeft.__all__) == {name for name in dir(kpeft) if name != "layers"}
    for name in kpeft.__all__:
        assert getattr(kpeft, name) is not None
    assert kpeft.layers.LoRADense.__module__ == "kpeft.layers.lora"
    assert {"LoRADense", "LoRAEinsumDense"} <= set(kpeft.layers.__all__)
    with pytest.raises(AttributeError, match="no attribute 'LoRa'"):
        kpeft.LoRa  # noqa: B018
