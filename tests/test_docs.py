"""The README: its Python runs as printed, in order, and what it names exists."""

import re
from pathlib import Path

import pytest

import staticgraph as sg
from staticgraph import kernelcache
from staticgraph.registry import FUNCTIONS, OPS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
#: what stands between single backticks, outside the blocks
QUOTED = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))


@pytest.fixture(scope="module")
def namespace(tmp_path_factory):
    """All names after the blocks ran one after the other, away from the checkout."""
    names = {"__name__": "readme"}
    tables = [(table, dict(table)) for table in (OPS, FUNCTIONS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("readme"))
        for k, block in enumerate(BLOCKS):
            exec(compile(block, f"README block {k}", "exec"), names)
    yield names
    for table, before in tables:  # the README's own op is no op of the library
        table.clear()
        table.update(before)


def test_the_blocks_run(namespace):
    assert len(BLOCKS) == 4
    assert {"step", "small", "softclip", "exp_of_zero"} <= set(namespace)


@pytest.mark.parametrize("text", [q for q in QUOTED if re.search(r"\bfn\.[a-z]", q)])
def test_attributes_of_functions_exist(namespace, text):
    for path in re.findall(r"\bfn\.[a-z_.\[\]0-9]*", text):
        assert eval(path, {"fn": namespace["step"]}) is not None


def names_after_sg(text):
    """'grad', 'optim.sgd', ...: what stands after `sg.`, and the names that follow a space."""
    found = []
    for start, rest in re.findall(r"\bsg\.([a-z_.]+)((?: [a-z_]+)*)", text):
        folder = start.rpartition(".")[0]
        found += [start, *(f"{folder}.{name}".lstrip(".") for name in rest.split())]
    return [name.rstrip(".") for name in found]


@pytest.mark.parametrize("name", sorted({n for q in QUOTED for n in names_after_sg(q)}))
def test_public_names_exist(name):
    there = sg
    for part in name.split("."):
        there = getattr(there, part)


FILES = {q for q in QUOTED if re.fullmatch(r"[\w/*]+(/|\.py)", q)}


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_exist(name):
    folders = (ROOT, ROOT / "staticgraph", ROOT / "staticgraph" / "codegen")
    assert any(any(folder.glob(name)) for folder in folders), f"{name} is in none of the folders"


@pytest.mark.parametrize("task", sorted(set(re.findall(r"make ([a-z]+)", README))))
def test_tasks_exist(task):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{task}:", makefile, re.MULTILINE)


def test_the_cache_is_as_the_readme_says(monkeypatch, tmp_path):
    assert "MiB they may take (default 512)" in README
    monkeypatch.delenv("STATICGRAPH_CACHE_SIZE", raising=False)
    assert kernelcache.limit_bytes() == 512 << 20
    monkeypatch.setenv("STATICGRAPH_CACHE_SIZE", "3")
    assert kernelcache.limit_bytes() == 3 << 20
    monkeypatch.delenv("STATICGRAPH_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernelcache.directory() == tmp_path / "staticgraph"
