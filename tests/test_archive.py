"""Saved graphs come back whole, or not at all."""

import os
import shutil
import zipfile
from collections import namedtuple

import numpy as np
import pytest

import staticgraph as sg
from staticgraph import interpret, ops, tree
from staticgraph.archive import load_graph, save_graph
from staticgraph.errors import InputError
from staticgraph.ir import INPUT, Graph, Variable, apply, building
from staticgraph.operands import constant
from staticgraph.types import spec

Point = namedtuple("Point", ["x", "y"])


@pytest.fixture
def graph(rng):
    x = apply(INPUT, name="x", type=spec((4, 6)))
    table = rng.standard_normal((6, 5)).astype("f")
    w = Variable(rng.standard_normal((5, 3)).astype("f"), "layer/w", None)
    b = Variable(np.array(0.5, "f"), "b", None)
    with building(where=("model.py", 7)):
        y = x @ constant(table) @ w + b
        z = x @ constant(table) + constant(table[0])
    return Graph([x], [y, z], {w: w * 2.0, b: b + 1.0})


@pytest.fixture
def saved(graph, tmp_path):
    path = tmp_path / "step.sg"
    save_graph(path, graph, {"threads": 2})
    return path


def test_a_graph_comes_back_with_its_numbers(graph, saved, rng):
    back, extra = load_graph(saved)
    assert back == graph
    assert extra == {"threads": 2}
    for mine, theirs in zip(graph.variables, back.variables, strict=True):
        assert mine is not theirs
        assert (mine.name, mine.spec) == (theirs.name, theirs.spec)
        np.testing.assert_array_equal(mine.value, theirs.value, strict=True)
    x = rng.standard_normal((4, 6)).astype("f")
    for a, b in zip(interpret.run(graph, [x]), interpret.run(back, [x]), strict=True):
        assert a.tobytes() == b.tobytes()
    assert back.outputs[0].node.where == ("model.py", 7)
    back.variables[0].value = np.zeros((5, 3))
    assert graph.variables[0].value.any()


def test_the_file_is_plain_and_reproducible(graph, saved, tmp_path):
    with zipfile.ZipFile(saved) as archive:
        names = archive.namelist()
        text = archive.read("graph.sg").decode()
    assert names == [
        "header.json",
        "graph.sg",
        "extra.json",
        "constants/0.npy",
        "constants/1.npy",
        "variables/layer_w.npy",
        "variables/b.npy",
    ]
    assert "@layer_w 'layer/w': f32[5, 3]" in text
    assert "constant(npy'0')" in text
    save_graph(tmp_path / "again.sg", graph, {"threads": 2})
    assert (tmp_path / "again.sg").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float64", "complex64"])
def test_variables_of_any_dtype(dtype, tmp_path):
    v = Variable(np.array([[1, 0], [0, 1]], dtype)[:, :0], "empty", None)
    w = Variable(np.array(1, dtype), "scalar", None)
    path = os.fspath(tmp_path / "v.sg")
    save_graph(path, Graph([], [v, w]), {})
    back, _ = load_graph(path)
    assert [t.value.tolist() for t in back.variables] == [v.value.tolist(), w.value.tolist()]
    assert [t.spec for t in back.variables] == [v.spec, w.spec]


def test_extra_keeps_what_json_loses(graph, tmp_path):
    _, form = tree.flatten({"loss": 1, "parts": [(2, None), Point(3, 4)]})
    extra = {
        "target": "cpu",
        "budget": None,
        "sizes": (1, (2.5, [True, ()])),
        "by number": {1: "a", (2, "b"): {"dict": [1]}},
        "inf": [float("inf"), -0.0, 1 - 2j],
        "inputs": (spec((2, 3)), spec((), "bool")),
        "text": "ü\n\0",
        "size": np.int64(3),
    }
    save_graph(tmp_path / "g.sg", graph, {**extra, "form": form})
    _, back = load_graph(tmp_path / "g.sg")
    made = tree.unflatten(back.pop("form"), [10, 20, 30, 40])
    assert made == {"loss": 10, "parts": [(20, None), (30, 40)]}
    assert made["parts"][1]._fields == ("x", "y")
    assert repr(back) == repr({**extra, "size": 3})


def test_a_function_comes_back_with_the_form_of_its_results(tmp_path):
    x = sg.input("x", (2,))
    results = {"sum": x.sum(), "parts": (x + 1, [x, None], Point(x * 2, x * 3))}
    fn = sg.compile({1: x, **results})
    fn.save(tmp_path / "fn.sg")
    made = sg.load(tmp_path / "fn.sg")(np.ones(2, "f"))
    assert list(made) == [1, "sum", "parts"]
    assert made["sum"] == 2
    assert [v.tolist() for v in (made[1], made["parts"][0], made["parts"][1][0])] == [
        [1, 1],
        [2, 2],
        [1, 1],
    ]
    assert made["parts"][1][1] is None
    assert made["parts"][2].y.tolist() == [3, 3]


def test_extra_refuses_what_it_cannot_keep(graph, tmp_path):
    with pytest.raises(InputError, match=r"save: .* of type set cannot be stored in a file"):
        save_graph(tmp_path / "g.sg", graph, {"tags": {1, 2}})
    with pytest.raises(InputError, match="of type type cannot be stored"):
        save_graph(tmp_path / "g.sg", graph, {"kind": int})
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------- atomic


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    w = Variable(np.ones(3, "f"), "w", None)
    with pytest.raises(OSError, match="No space left"):
        save_graph(saved, Graph([], [ops.exp(w)]), {})
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["step.sg"]


def test_a_link_keeps_pointing(saved, graph, tmp_path):
    link = tmp_path / "latest.sg"
    link.symlink_to(saved)
    save_graph(link, graph, {"new": True})
    assert link.is_symlink()
    assert load_graph(saved)[1] == {"new": True}


def test_permissions_follow_the_umask(saved):
    plain = saved.with_name("plain")
    plain.touch()
    assert saved.stat().st_mode == plain.stat().st_mode


# ---------------------------------------------------------------------------- damage


def rewritten(path, **changes):
    """The file with members replaced, or left out where the new text is None."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, data in changes.items():
        members[name] = data
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(name, data)


def refused(path, match):
    with pytest.raises(InputError, match=match) as caught:
        load_graph(path)
    assert repr(os.fspath(path)) in str(caught.value)


def test_missing_and_foreign_files(tmp_path):
    refused(tmp_path / "none.sg", "load: there is no file")
    refused(tmp_path, "load: cannot read .*: Is a directory")
    (tmp_path / "empty").touch()
    refused(tmp_path / "empty", "is damaged or no saved graph")
    (tmp_path / "text").write_text("graph main() {\n  return\n}")
    refused(tmp_path / "text", "is damaged or no saved graph")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    refused(tmp_path / "other.npz", "this zip file is no saved graph")


MEMBERS = [
    ("header.json", b"[]", "no saved graph"),
    ("header.json", b"{", "is damaged"),
    ("header.json", None, "no saved graph"),
    ("header.json", b'{"format": "staticgraph", "version": 2}', "written in version 2 of the form"),
    ("graph.sg", b"graph main() {", "parse: line 1: expected"),
    ("graph.sg", b"\xff", "parse: line 1"),
    ("graph.sg", None, "is damaged"),
    ("extra.json", None, "is damaged"),
    ("extra.json", b"{}", "is damaged"),
    ("extra.json", b'{"type": "object"}', "is damaged"),
    ("extra.json", b'{"namedtuple": ["x y", ["def"]]}', "is damaged"),
    ("extra.json", b"[" * 100_000, "is damaged"),
    ("constants/0.npy", None, "there is no array '0' beside the text"),
    ("constants/0.npy", b"\x93NUMPY", "is damaged"),
    ("variables/b.npy", None, "the value of variable 'b' is missing"),
    ("variables/b.npy", b"", "is damaged"),
    ("variables/c.npy", "b.npy", "the text has no variable @c"),
    ("variables/b.npy", "layer_w.npy", r"variable @b is f32\[\], its value is f32\[5, 3\]"),
]


@pytest.mark.parametrize(("member", "data", "message"), MEMBERS)
def test_damaged_members(saved, member, data, message):
    if isinstance(data, str):
        with zipfile.ZipFile(saved) as archive:
            data = archive.read(f"variables/{data}")
    rewritten(saved, **{member: data})
    refused(saved, message)


def test_objects_are_never_unpickled(saved, tmp_path):
    np.save(tmp_path / "evil.npy", np.array([print], object), allow_pickle=True)
    rewritten(saved, **{"variables/b.npy": (tmp_path / "evil.npy").read_bytes()})
    refused(saved, "is damaged .*allow_pickle=False")


def test_any_torn_or_changed_file_is_refused_or_equal(saved, graph, tmp_path, rng):
    data = saved.read_bytes()
    copy = tmp_path / "copy.sg"
    for size in rng.integers(0, len(data), 40):
        copy.write_bytes(data[:size])
        refused(copy, "load: ")
    for at in rng.integers(0, len(data), 200):
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(8))
        copy.write_bytes(bytes(changed))
        try:
            back, _ = load_graph(copy)
        except InputError:
            continue
        # Bits that say nothing, such as a member's date, may change unseen.
        assert back == graph
        for mine, theirs in zip(graph.variables, back.variables, strict=True):
            np.testing.assert_array_equal(mine.value, theirs.value)
    shutil.copy(saved, copy)
    assert load_graph(copy)[0] == graph
