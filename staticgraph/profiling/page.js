"use strict";
(() => {
  const all = (query, from = document) => [...from.querySelectorAll(query)];
  const one = (query) => document.querySelector(query);
  const errors = [];
  window.addEventListener("error", (event) => errors.push(event.message));
  document.addEventListener("securitypolicyviolation", (event) => errors.push(event.blockedURI));
  document.body.classList.add("js");

  // -- what a pointer shows: our own box instead of the browser's late one
  const tip = one("#tip");
  for (const title of all("svg title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }
  for (const cell of all("[title]")) {
    cell.dataset.tip = cell.title;
    cell.removeAttribute("title");
  }
  document.addEventListener("pointermove", (event) => {
    const over = event.target.closest ? event.target.closest("[data-tip]") : null;
    tip.hidden = !over;
    if (!over) return;
    if (tip.textContent !== over.dataset.tip) tip.textContent = over.dataset.tip;
    const room = document.documentElement, gap = 14;
    const x = Math.min(event.clientX + gap, room.clientWidth - tip.offsetWidth - gap);
    const below = event.clientY + gap + tip.offsetHeight < room.clientHeight;
    tip.style.left = `${Math.max(gap, x)}px`;
    tip.style.top = `${below ? event.clientY + gap : event.clientY - gap - tip.offsetHeight}px`;
  });

  // -- the table of kernels
  const table = one("#kernels"), body = table.tBodies[0], heads = all("thead th", table);
  const value = (row, k) => row.cells[k].dataset.v ?? row.cells[k].textContent.trim();
  function sort(k) {
    const head = heads[k], words = head.dataset.kind === "text";
    const up = head.ariaSort ? head.ariaSort === "descending" : words || k === 0;
    const sign = up ? 1 : -1;
    const order = (a, b) => words
      ? sign * value(a, k).localeCompare(value(b, k))
      : sign * (value(a, k) - value(b, k));
    const number = (row) => Number(value(row, 0));
    body.append(...[...body.rows].sort((a, b) => order(a, b) || number(a) - number(b)));
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.ariaSort = up ? "ascending" : "descending";
  }
  heads.forEach((head, k) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(k));
    head.append(button);
  });
  const filter = one("#filter"), shown = one("#shown");
  function select() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of body.rows) {
      const text = `${row.textContent} ${row.dataset.ops ?? ""}`.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    const left = [...body.rows].filter((row) => !row.hidden).length;
    shown.textContent = `${left} of ${body.rows.length} kernels`;
  }
  filter.addEventListener("input", select);
  select();

  // -- who is alive at the step under the pointer
  const plot = one("#memory-plot"), live = one("#live");
  function size(bytes) {
    const unit = [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]].find(([n]) => bytes >= n);
    return unit ? `${(bytes / unit[0]).toPrecision(3)} ${unit[1]}` : `${bytes} B`;
  }
  function at(step) {
    const held = all(".buffer", plot).filter((b) => {
      const on = b.dataset.born <= step && step <= b.dataset.dies;
      b.classList.toggle("on", on);
      return on;
    }).sort((a, b) => b.dataset.bytes - a.dataset.bytes);
    const sum = held.reduce((n, b) => n + Number(b.dataset.bytes), 0);
    const rows = held.slice(0, 8).map((b) => `  ${size(Number(b.dataset.bytes))}  ${b.dataset.what}`);
    if (held.length > 8) rows.push(`  ${held.length - 8} more`);
    live.textContent = [`step ${step}: ${held.length} buffers, ${size(sum)}`, ...rows].join("\n");
    const x = Number(plot.dataset.left) + (step + 0.5) * plot.dataset.wide, cursor = one(".cursor");
    cursor.setAttribute("d", `M${x} ${cursor.dataset.top}V${cursor.dataset.bottom}`);
  }
  if (plot) {
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const x = (event.clientX - box.left) * plot.viewBox.baseVal.width / box.width;
      const step = Math.floor((x - plot.dataset.left) / plot.dataset.wide);
      if (step >= 0 && step < Number(plot.dataset.steps)) at(step);
    });
  }

  // -- the whole graph at a glance, or so that it can be read
  const fit = one("#fit"), frame = one("#graph-frame");
  if (fit) {
    fit.addEventListener("click", () => {
      const whole = frame.classList.toggle("whole");
      fit.textContent = whole ? "show it in full size" : "show all of it";
    });
  }

  // -- links open the pane they lead to
  function open() {
    const goal = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (goal && goal.tagName === "DETAILS") goal.open = true;
  }
  window.addEventListener("hashchange", open);
  open();

  // -- a test of all this: open the page with #self-test and read the element of that name
  function selfTest() {
    const column = (k) => [...body.rows].filter((row) => !row.hidden).map((row) => value(row, k));
    const press = (k) => { heads[k].firstChild.click(); return column(k); };
    const found = { rows: body.rows.length, sorted: {}, errors };
    heads.forEach((head, k) => {
      const first = press(k);
      found.sorted[head.textContent.trim()] = { kind: head.dataset.kind, first, second: press(k) };
    });
    filter.value = body.rows[0].cells[1].textContent.trim().split(/\s/)[0];
    filter.dispatchEvent(new Event("input"));
    found.filtered = { word: filter.value, names: column(1), shown: shown.textContent };
    filter.value = "";
    filter.dispatchEvent(new Event("input"));
    const pointer = (element, x, y) => element.dispatchEvent(
      new PointerEvent("pointermove", { bubbles: true, clientX: x, clientY: y }));
    if (plot) {
      const box = plot.getBoundingClientRect();
      pointer(plot, box.left + box.width / 2, box.top + box.height / 2);
      found.live = live.textContent;
    }
    const point = one("[data-tip]");
    pointer(point, 100, 100);
    found.tip = { shown: !tip.hidden, text: tip.textContent };
    if (fit) {
      fit.click();
      found.whole = frame.scrollWidth <= frame.clientWidth;
      fit.click();
    }
    const pane = one("details[id]");
    if (pane) {
      pane.open = false;
      location.hash = pane.id;
      open();
      found.opened = pane.open;
    }
    const result = document.createElement("pre");
    result.id = "self-test";
    result.textContent = JSON.stringify(found);
    document.body.append(result);
  }
  if (location.hash === "#self-test") selfTest();
})();
