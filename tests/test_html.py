"""The page of a report: one file, no network, readable without its script, and with it in Chromium.

The browser's tests need `chromium` (Debian's package); without it they are skipped.
"""

import json
import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from clitools import invoke, made_up, models  # noqa: F401  a fixture

import staticgraph as sg
from staticgraph import kernels
from staticgraph.errors import ReportError
from staticgraph.profiling import html, pictures
from staticgraph.profiling.pagecode import Code
from staticgraph.profiling.report import load_report
from staticgraph.profiling.rows import Event, Level, Machine, Place, Roof, Run, Span

VOID = {"meta", "link", "br", "input", "img", "hr"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """Elements with their attributes and text; complains about ends that do not fit."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", **dict(attrs)})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attrs):
        return [
            e for e in self.elements
            if e["tag"] == tag and all(e.get(k) == v for k, v in attrs.items())
        ]  # fmt: skip

    def one(self, tag, **attrs):
        (found,) = self.all(tag, **attrs)
        return found


def roof(value):
    return Roof(value=value, low=0.9 * value, high=value, cv=0.03, samples=[value])


def machine():
    levels = [
        Level(name, size, 10**5, roof(rate), roof(rate))
        for name, size, rate in (("L1", 32768, 4e11), ("L2", 1 << 20, 1e11), ("DRAM", 0, 1e10))
    ]
    peaks = {"float32": roof(2e11), "float64": roof(1e11)}
    return Machine(
        cpu="A CPU", cores=2, threads=2, date="2026-01-02", versions={}, levels=levels,
        levels_one=levels, fma=peaks, fma_one=peaks, sgemm=roof(1.8e11), blas=roof(1.7e11),
        seconds=1.0,
    )  # fmt: skip


def large(count=200):
    """A report of so many kernels, each with buffers, ops, lines and five recorded runs."""
    report = made_up()
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(count, 0.3))
    rows, ops, buffers = [], [], []
    for k in range(count):
        base = report.kernels[k % 3]
        rows.append(
            replace(
                base, index=k + 1, step=k, name=f"{base.name}_{k}", share=float(shares[k]),
                median=float(shares[k]) * 1e-2, key=f"{k % 90:064x}",
                gflops=float(rng.lognormal(2, 1)), intensity=float(rng.lognormal(0, 2)),
                lines=[Place("/a/very/long/path/of/a/model.py", 10 + k)],
                reads=[f"#{j}" for j in {k, max(1, k - 7)}] if k else ["input x"],
                writes=["output 0"] if k == count - 1 else [],
            )
        )  # fmt: skip
        ops += [replace(op, kernel=k + 1) for op in report.ops[:5]]
        live = report.memory.live[0]
        buffers.append(replace(live, born=k, dies=min(count - 1, k + 9), offset=4096 * (k % 11)))
    moments = np.linspace(0, 1e-2, count + 1).tolist()
    events = [
        Event(k + 1, moments[k], moments[k + 1],
              [Span(j, moments[k], moments[k + 1], 4) for j in range(2)])
        for k in range(count)
    ]  # fmt: skip
    samples = [rng.lognormal(-4, 0.1, 1000).tolist() for _ in range(5)]
    memory = replace(
        report.memory, buffers=buffers, live=buffers[:30], timeline=[40960] * count, peak=77824,
        steps=[r.name for r in rows],
    )  # fmt: skip
    return replace(
        report, kernels=rows, ops=ops, machine=machine(), memory=memory,
        timeline=[Run(1e-2, events)] * 5, wall=replace(report.wall, samples=samples),
    )  # fmt: skip


def page_of(report, codes=None):
    return html.page(report, codes, report.to_json())


CODE = Code(
    "def k(lo, hi):\n    a < b and '</script>'\n", "k:\n\tvaddps\t%zmm0, %zmm1, %zmm2\n\tretq\n"
)


@pytest.fixture(scope="module")
def profiled():
    x, w = sg.input("x", (64, 32)), sg.variable(np.ones((32, 8), "f"), name="w")
    loss = sg.ops.mean(sg.ops.tanh(x @ w))
    fn = sg.compile(loss, updates={w: w - 0.1 * sg.grad(loss, w)})
    report = fn.profile(runs=10, warmup=2, roofs=False)
    report.model.name = 'a "model" <b>&</b>'
    return report


# -- the file -------------------------------------------------------------------------------------
def test_no_address_is_in_a_page_and_none_may_be_asked(profiled):
    text = profiled.to_html()
    page = Page(text)
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"})["content"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert "http:" not in text
    assert "https:" not in text
    for element in page.elements:
        assert element["tag"] not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert element["tag"] != "script" or "src" not in element
        for name in ("href", "src", "action", "data", "xlink:href"):
            assert element.get(name, "#").startswith("#"), element
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_links_lead_somewhere(profiled):
    page = Page(profiled.to_html())
    known = [e["id"] for e in page.elements if "id" in e]
    assert len(known) == len(set(known))
    assert {e["href"][1:] for e in page.all("a")} <= set(known)


def test_two_hundred_kernels_fit():
    report = large()
    codes = {r.key: Code("x = 1\n" * 2000, "\tvaddps\t%zmm0\n" * 9000) for r in report.kernels}
    text = page_of(report, codes)
    assert len(text.encode()) < 1_500_000
    page = Page(text)
    assert len(page.all("tr", **{"data-ops": "sum"})) == 66
    dearest = max(report.kernels, key=lambda r: r.share)
    assert "x = 1" in page.one("details", id=f"c{dearest.index}")["text"]
    assert "Left out to keep this page small" in page.one("section", id="code")["text"]
    assert len(page_of(report).encode()) < 1_000_000


# -- what is in it --------------------------------------------------------------------------------
def test_the_table_needs_no_script(profiled):
    page = Page(profiled.to_html())
    table = page.one("table", id="kernels")
    for row in profiled.kernels:
        assert row.name in page.one("tr", id=f"k{row.index}")["text"]
        assert row.name in table["text"]
    heads = [e["text"] for e in page.all("th", scope="col")]
    assert heads == [c.heading for c in html.COLUMNS]
    assert all(e["title"] for e in page.all("th", scope="col"))
    values = [float(e["data-v"]) for e in page.all("td", **{"class": "share"})]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(profiled.coverage.kernels, rel=1e-4)


def test_pictures_have_what_the_report_has():
    report = large(40)
    page = Page(page_of(report))
    assert len(page.all("circle", **{"class": "point"})) == 40
    assert len([e for e in page.all("rect") if e.get("class", "").startswith("buffer")]) == 40
    assert len(page.all("rect", **{"class": "span"})) == 80
    boxes = [e for e in page.all("rect") if e.get("class", "").startswith("box kernel")]
    assert len(boxes) == 40
    assert page.one("rect", **{"class": "box input"})
    assert page.one("rect", **{"class": "box result"})
    hovers = [e["text"] for e in page.all("title")]
    assert any("DRAM: 10.0 GB/s" in h for h in hovers)
    assert any("steps 3 to 12" in h for h in hovers)


def test_points_stand_where_their_numbers_say():
    """Ten times the rate is as far up as ten times the intensity is to the right of its axis."""
    report = large(12)
    axes = pictures._Axes([0.1, 10.0], [1.0, 100.0])
    assert axes.x(1.0) == pytest.approx((axes.x(0.1) + axes.x(10.0)) / 2)
    assert axes.y(100.0) < axes.y(10.0) < axes.y(1.0)
    page = Page(page_of(report))
    points = page.all("circle", **{"class": "point"})
    rows = sorted(report.kernels, key=lambda r: -r.share)
    by_x = [rows[k].index for k in np.argsort([float(p["cx"]) for p in points], kind="stable")]
    assert by_x == [r.index for r in sorted(rows, key=lambda r: r.intensity)]


def test_kernels_know_whose_values_they_read(profiled):
    found = {name for r in profiled.kernels for name in (*r.reads, *r.writes)}
    assert {"input x", "variable w", "output 0"} <= found
    for row in profiled.kernels:
        assert all(int(n[1:]) < row.index for n in row.reads if n.startswith("#"))
    assert any(n == "variable w" for r in profiled.kernels for n in r.writes)


def test_a_sum_in_parts_reads_its_parts():
    x = sg.input("x", (1 << 18,))
    report = sg.compile(x.sum()).profile(runs=3, warmup=1, roofs=False)
    assert [r.reads for r in report.kernels] == [["input x"], ["#1"]]
    assert [r.writes for r in report.kernels] == [[], ["output 0"]]


def test_an_empty_report_has_a_page():
    report = replace(made_up(), kernels=[], ops=[], timeline=[], advice=[])
    report.memory = replace(report.memory, peak=0, timeline=[], buffers=[], live=[])
    page = Page(page_of(report, {}))
    assert {e["id"] for e in page.all("section")} >= {"overview", "kernel-table", "code"}


def test_code_is_shown_or_left_out(profiled):
    with_code = Page(profiled.to_html())
    assert "vld_f32" in with_code.one("section", id="code")["text"]
    assert "retq" in with_code.one("section", id="code")["text"]
    without = profiled.to_html(source=False)
    assert "vld_f32" not in without
    assert Page(without).all("section", id="code") == []


def test_code_is_found_on_disk(profiled, monkeypatch):
    """As for a profile of another process."""
    monkeypatch.setattr(kernels, "_kernels", {})
    text = Page(profiled.to_html()).one("section", id="code")["text"]
    assert "vld_f32" in text
    assert "retq" in text


def test_code_of_another_machine_is_missed(profiled):
    rows = [replace(r, key="0" * 64) for r in profiled.kernels]
    page = Page(replace(profiled, kernels=rows).to_html())
    assert "not in the kernel cache" in page.one("section", id="code")["text"]


def test_text_cannot_become_markup(profiled):
    report = replace(profiled, kernels=[replace(profiled.kernels[0], name="</script><b>bold")])
    page = Page(page_of(report, {report.kernels[0].key: CODE}))
    assert page.all("b", **{"class": "bold"}) == []
    assert not any(e["text"].startswith("bold") for e in page.all("b"))
    assert page.one("h1")["text"] == 'a "model" <b>&</b>'
    assert "a < b and '</script>'" in page.one("section", id="code")["text"]


# -- read back ------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [3, 200])
def test_a_page_is_read_back(tmp_path, count):
    report = large(count)
    report.kernels[0].name = "</script> <!-- & \u2028"
    path = tmp_path / "page.html"
    path.write_text(page_of(report), encoding="utf-8")
    again = load_report(path)
    assert again == report
    assert again.to_json() == report.to_json()
    kinds = [e["type"] for e in Page(path.read_text()).all("script", id="staticgraph-report")]
    assert kinds == ["application/json" if count == 3 else "application/gzip"]


def test_other_pages_are_refused(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<!doctype html><p>Hello</p>")
    with pytest.raises(ReportError, match="without a profile of staticgraph"):
        load_report(path)
    broken = re.sub(r'(id="staticgraph-report">).{40}', r"\1", page_of(large(200)))
    path.write_text(broken)
    with pytest.raises(ReportError, match="damaged profile"):
        load_report(path)


@pytest.mark.usefixtures("models")
def test_commands_write_and_read_pages():
    quick = ("--quick", "--runs", "5", "--warmup", "1", "--no-roofs")
    done = invoke("profile", "mlp.py:step", *quick, "--html", "page.html", "-o", "run.sgprof")
    assert done.exit_code == 0
    assert load_report("page.html") == load_report("run.sgprof")
    assert invoke("show", "page.html").stdout == invoke("show", "run.sgprof").stdout
    assert invoke("show", "page.html", "--html", "--no-source").exit_code == 0
    with open("page.2.html") as file:
        assert Page(file.read()).all("section", id="code") == []
    with open("other.html", "w") as file:
        file.write("<!doctype html>")
    done = invoke("show", "other.html")
    assert done.exit_code == 2
    assert "other.html is a page without a profile" in done.stderr


def test_notebooks_get_a_small_table(profiled):
    text = profiled._repr_html_()
    page = Page(text)
    assert len(text) < 20_000
    assert page.all("script") == page.all("style") == []
    assert len(page.all("tr")) == 1 + min(10, len(profiled.kernels))
    assert "more kernels" in Page(large(30)._repr_html_()).elements[-1]["text"]


# -- in a browser ---------------------------------------------------------------------------------
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)"
)


def chromium(folder, url, *options, size="1280,2400"):
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--no-first-run",
        f"--user-data-dir={folder}/browser", f"--window-size={size}", "--enable-logging=stderr",
        "--virtual-time-budget=4000", *options, url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def browsed(tmp_path_factory):
    """The page of forty kernels, and what its own test found in Chromium."""
    folder = tmp_path_factory.mktemp("page")
    report = large(40)
    report.kernels[5].could_save = None
    path = folder / "page.html"
    path.write_text(page_of(report, {report.kernels[0].key: CODE}), encoding="utf-8")
    done = chromium(folder, f"{path.as_uri()}#self-test", "--dump-dom")
    page = Page(re.sub(r"^.*?(?=<!DOCTYPE)", "", done.stdout, flags=re.S))
    return report, json.loads(page.one("pre", id="self-test")["text"]), done.stderr, folder


@needs_chromium
def test_the_browser_complains_about_nothing(browsed):
    _, found, log, _ = browsed
    assert found["errors"] == []
    assert "CONSOLE" not in log


@needs_chromium
def test_clicks_sort(browsed):
    report, found, _, _ = browsed
    assert list(found["sorted"]) == [c.heading for c in html.COLUMNS]
    for column in html.COLUMNS:
        made = found["sorted"][column.heading]
        if column.value is None:
            assert len(made["first"]) == 40
            continue
        values = [column.value(r) for r in report.kernels]
        falling = sorted((-1.0 if v is None else v for v in values), reverse=True)
        seen = {name: [float(v) for v in made[name]] for name in ("first", "second")}
        up = column.heading == "#"
        first, second = (falling[::-1], falling) if up else (falling, falling[::-1])
        assert seen["first"] == pytest.approx(first, rel=1e-5)
        assert seen["second"] == pytest.approx(second, rel=1e-5)
    names = found["sorted"]["kernel"]
    assert names["first"][0] < names["first"][-1]
    assert names["first"][0] > names["second"][-1] or names["first"][0] == names["second"][-1]


@needs_chromium
def test_words_filter(browsed):
    report, found, _, _ = browsed
    word = found["filtered"]["word"]
    wanted = sum(word in " ".join([r.name, *r.ops, r.label]) for r in report.kernels)
    assert 0 < wanted < 40
    assert len(found["filtered"]["names"]) == wanted
    assert found["filtered"]["shown"] == f"{wanted} of 40 kernels"


@needs_chromium
def test_pointing_tells(browsed):
    report, found, _, _ = browsed
    step = int(re.match(r"step (\d+): ", found["live"])[1])
    alive = sum(b.born <= step <= b.dies for b in report.memory.buffers)
    assert f"step {step}: {alive} buffers" in found["live"]
    assert abs(step - 20) <= 2  # the pointer was in the middle
    assert found["tip"]["shown"]
    assert found["tip"]["text"]
    assert found["opened"]
    assert found["whole"]


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_looks_like_something(browsed, scheme):
    _, _, _, folder = browsed
    picture = folder / f"{scheme}.png"
    setting = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    url = (folder / "page.html").as_uri()
    chromium(folder, url, setting, f"--screenshot={picture}", size="800,600")
    colours, background = pixels(picture.read_bytes())
    assert len(colours) > 100
    assert (sum(background) > 600) == (scheme == "light")


def pixels(raw):
    """The colours of a PNG of 8-bit RGB(A) without interlacing, and that of its first pixel."""
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed = 8, b""
    while at < len(raw):
        size, kind = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
        content = raw[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            wide, high = (int.from_bytes(content[k : k + 4], "big") for k in (0, 4))
            depth = {2: 3, 6: 4}[content[9]]
            assert (content[8], content[12]) == (8, 0)
        packed += content if kind == b"IDAT" else b""
        at += 12 + size
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(high, 1 + wide * depth)
    image = np.zeros((high, wide * depth), np.uint8)
    before = np.zeros(wide * depth, np.uint8)
    for y in range(high):
        before = image[y] = unfiltered(int(lines[y, 0]), lines[y, 1:], before, depth)
    flat = image.reshape(-1, depth)[:, :3]
    return {tuple(c) for c in np.unique(flat, axis=0).tolist()}, flat[0].astype(int).tolist()


def unfiltered(kind, line, above, depth):
    """One row of a PNG from its difference to what stands left of and above it."""
    if kind in (0, 2):
        return line + (above if kind else 0)
    made = line.astype(int)
    up = above.astype(int)
    if kind == 1:
        return np.cumsum(made.reshape(-1, depth), axis=0).astype(np.uint8).ravel()
    for k in range(len(made)):
        a = made[k - depth] if k >= depth else 0
        b, c = up[k], up[k - depth] if k >= depth else 0
        if kind == 3:
            guess = (a + b) // 2
        else:
            near = a + b - c
            guess = min((abs(near - a), 0, a), (abs(near - b), 1, b), (abs(near - c), 2, c))[2]
        made[k] = (made[k] + guess) & 255
    return made.astype(np.uint8)
