"use strict";
// The tables stand in the page already; this sorts and filters them and draws what is made of the data beside them.
// Every text goes in as a text node. The state is in the address (#...), so that a link shows what its sender saw.
(() => {
  const data = JSON.parse(document.getElementById("board-data").textContent);
  const root = document.documentElement;
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442"];
  const SYMBOLS = ["circle", "square", "diamond", "hexagon", "pentagon", "octagon", "star"]; // each has room for a number;

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const known = value => value !== null && value !== undefined;
  const figure = value => {
    if (!known(value)) return "–";
    const size = Math.abs(value);
    return size < 10 ? value.toFixed(3) : size < 1000 ? value.toFixed(1) : value.toFixed(0);
  };
  const signed = value => known(value) ? (value > 0 ? "+" : value < 0 ? "−" : "±") + figure(Math.abs(value)) : "–";
  const between = (low, high, show = figure) => known(low) && known(high) ? `${show(low)} to ${show(high)}` : "–";

  // ---- the address: one set of parameters for the page, each under the number of its task
  let quiet = true;
  const readState = () => new URLSearchParams(location.hash.slice(1));
  let state = readState();
  const remember = (at, name, value) => {
    const key = `${at}.${name}`;
    if (value === "" || value === null) state.delete(key); else state.set(key, value);
    if (!quiet) history.replaceState(null, "", `#${state}`);
  };

  // ---- colours
  const theme = document.getElementById("theme");
  const store = { get: () => { try { return localStorage.getItem("cxrbench-theme"); } catch { return null; } },
    set: value => { try { localStorage.setItem("cxrbench-theme", value); } catch { /* a page without storage forgets */ } } };
  const setTheme = value => { root.dataset.theme = value; theme.value = value; redraw(); };
  const style = name => getComputedStyle(root).getPropertyValue(name).trim();

  // ---- the chart library is read when the first chart comes into sight
  const unpack = async () => {
    const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), char => char.charCodeAt(0));
    const script = document.createElement("script");
    script.textContent = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
    document.head.append(script);
    return window.Plotly;
  };
  let reading = null;
  const library = () => reading ??= unpack();
  // The library reads tags and entities in what it writes into a chart; a name is a text.
  const literal = text => text.replace(/[&<>]/g, char => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[char]);
  const drawn = new Set();
  const redraw = () => { for (const draw of drawn) draw(); };
  const layout = (height, more) => ({
    height, margin: { l: 8, r: 16, t: 10, b: 46 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: style("--ink"), family: getComputedStyle(document.body).fontFamily, size: 13 }, showlegend: false, ...more });
  const axis = more => ({ gridcolor: style("--grid"), linecolor: style("--line"), zerolinecolor: style("--soft"), automargin: true, ...more });
  // Marks of a logarithmic axis: 1, 2, 5 of each decade where these are three at least, else even steps; numbers in full.
  const marks = (from, to) => {
    const upper = Math.ceil(Math.log10(to)), lower = Math.floor(Math.log10(from)), digits = to / from < 1000 ? [1, 2, 5] : [1];
    let found = Array.from({ length: upper - lower + 1 }, (_, k) => digits.map(digit => Number(`${digit}e${lower + k}`))).flat().filter(value => value >= from && value <= to);
    if (found.length < 3) {
      const least = (to - from) / 5, size = 10 ** Math.floor(Math.log10(least)), step = [1, 2, 5, 10].map(each => each * size).find(each => each >= least);
      found = Array.from({ length: 7 }, (_, k) => Number(((Math.ceil(from / step) + k) * step).toPrecision(6))).filter(value => value <= to);
    }
    return { tickmode: "array", tickvals: found, ticktext: found.map(value => value.toLocaleString("en", { maximumSignificantDigits: 6 })) };
  };
  const DOT = 20; // pixels of a dot with a number in it
  const PAPER = 680; // pixels of a chart on paper
  let onPaper = false;
  const plot = async (place, traces, shape) => (await library()).react(place, traces, { ...shape, width: onPaper ? PAPER : undefined }, { responsive: true, displayModeBar: false });

  const table = (place, heads, rows, classes = "") => {
    const head = make("tr", {}, ...heads.map((text, i) => make("th", { scope: "col", class: i ? "number" : "name" }, text)));
    const body = rows.map(cells => make("tr", {}, ...cells.map((cell, i) => {
      const node = cell instanceof Node ? cell : make("td", { class: "number" }, cell);
      return i ? node : make("th", { scope: "row", class: "name" }, make("bdi", {}, cell));
    })));
    place.replaceChildren(make("table", { class: classes }, make("thead", {}, head), make("tbody", {}, ...body)));
  };

  const download = (name, type, text) => {
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  // A spreadsheet runs a cell that begins like a formula: a quote before it makes it text.
  const csvCell = value => {
    if (!known(value)) return "";
    let text = String(value);
    if (typeof value !== "number" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = task => {
    const heads = ["task", "kind", "model", "run", "inputs", "n", "n_expected", "truncated_share", "column", "value",
      "low", "high", "scored", "failed", "rank_first", "rank_last", "ranked", "signature", "evidence", "source"];
    const rows = [];
    for (const run of task.runs) task.columns.forEach((column, i) => {
      const cell = run.values[i] || [];
      rows.push([task.name, "measured", run.model, run.id, run.inputs, run.n, run.n_expected, run.truncated_share,
        column.key, ...Array.from({ length: 8 }, (_, k) => cell[k]), run.values[i] ? cell[8] || column.signature : "", "", ""]);
    });
    for (const row of task.reported) rows.push([task.name, "reported", row.model, "", "", "", "", "", row.column,
      row.value, "", "", "", "", "", "", "", "", row.evidence, row.source]);
    return [heads, ...rows].map(row => row.map(csvCell).join(",")).join("\r\n") + "\r\n";
  };

  const setUp = section => {
    const at = Number(section.dataset.task), task = data.tasks[at];
    const find = what => section.querySelector(`[data-do=${what}]`);
    const scores = section.querySelector("table.scores");
    if (!scores) return;
    const status = section.querySelector("[data-status]");
    const heads = [...scores.tHead.rows[0].cells];
    const measured = scores.querySelector("tbody.measured"), reported = scores.querySelector("tbody.reported");
    let order = { by: null, down: true };

    const say = () => {
      const rows = [...measured.rows], shown = rows.filter(row => !row.hidden).length;
      const head = heads.find(each => each.dataset.sort === order.by);
      const words = head ? `, sorted by ${head.querySelector("button").firstChild.textContent.trim()}, ` +
        (order.down ? "falling" : "rising") : "";
      status.textContent = `${shown} of ${rows.length} runs shown${words}.`;
    };
    const valueOf = (row, index) => {
      const cell = row.cells[index];
      if (index === 0) return row.querySelector("bdi").textContent;
      return cell.dataset.v === "" ? null : index === 1 ? cell.dataset.v : Number(cell.dataset.v);
    };
    const compare = (a, b) => {
      if (a === null || b === null) return (a === null) - (b === null) || 0;
      const found = typeof a === "string" ? a.localeCompare(b) : a - b;
      return found;
    };
    const sort = (by, down) => {
      const index = heads.findIndex(each => each.dataset.sort === by);
      if (index < 0) return;
      order = { by, down };
      for (const body of [measured, reported]) {
        if (!body) continue;
        const rows = [...body.rows].filter(row => !row.classList.contains("divider"));
        const values = new Map(rows.map(row => [row, valueOf(row, index)]));
        rows.sort((a, b) => {
          const x = values.get(a), y = values.get(b);
          const found = compare(x, y);
          return x === null || y === null ? found : down ? -found : found;
        });
        body.append(...rows);
      }
      heads.forEach(each => each.removeAttribute("aria-sort"));
      heads[index].setAttribute("aria-sort", down ? "descending" : "ascending");
      remember(at, "sort", `${down ? "-" : "+"}${by}`);
      say();
    };
    const bestFirst = by => {
      const head = heads.find(each => each.dataset.sort === by);
      return head.classList.contains("number") && head.dataset.better !== "low";
    };
    heads.forEach(head => head.querySelector("button").addEventListener("click", () => {
      const by = head.dataset.sort;
      sort(by, order.by === by ? !order.down : bestFirst(by));
    }));

    const filter = () => {
      const words = find("filter").value.toLowerCase().split(/\s+/).filter(Boolean), inputs = find("inputs")?.value || "";
      for (const body of [measured, reported]) for (const row of body ? body.rows : []) {
        if (row.classList.contains("divider")) continue;
        const text = `${row.querySelector("bdi").textContent} ${row.dataset.inputs || ""}`.toLowerCase();
        row.hidden = !words.every(word => text.includes(word)) || (body === measured && inputs !== "" && row.dataset.inputs !== inputs);
      }
      if (reported) reported.hidden = !find("reported").checked;
      remember(at, "q", find("filter").value);
      remember(at, "inputs", inputs);
      if (reported) remember(at, "reported", find("reported").checked ? "" : "no");
      say();
    };
    for (const what of ["filter", "inputs", "reported"]) find(what)?.addEventListener("input", filter);

    const columns = () => {
      const boxes = [...section.querySelectorAll("[data-do=column]")];
      for (const box of boxes) {
        const index = 5 + Number(box.value);
        for (const row of scores.rows) if (!row.classList.contains("divider") && row.cells[index]) row.cells[index].hidden = !box.checked;
      }
      remember(at, "hide", boxes.filter(box => !box.checked).map(box => box.value).join("."));
    };
    section.querySelectorAll("[data-do=column]").forEach(box => box.addEventListener("change", columns));

    find("csv").addEventListener("click", () => download(`${data.name}-${task.name}.csv`, "text/csv", csv(task)));
    find("json").addEventListener("click", () => download(`${data.name}-${task.name}.json`, "application/json", JSON.stringify(task, null, 1)));
    section.querySelectorAll("[data-do=copy]").forEach(button => button.addEventListener("click", async () => {
      const text = button.previousElementSibling;
      try { await navigator.clipboard.writeText(text.textContent); button.textContent = "Copied"; }
      catch { getSelection().selectAllChildren(text); button.textContent = "Selected"; }
    }));

    const views = section.querySelector("[data-views]");
    const number = find("number"), against = find("against"), slice = find("slice");
    const option = (text, value) => make("option", { value }, text);
    task.columns.forEach((column, i) => number.append(option(column.key, i)));
    task.runs.forEach((run, i) => against.append(option(run.model, i)));
    task.by.forEach(name => slice.append(option(name, name)));
    against.value = String(task.baseline);
    slice.parentElement.hidden = !slice.options.length;
    const view = name => {
      const node = section.querySelector(`[data-view=${name}]`);
      return { node, chart: node.querySelector("[data-chart]"), table: node.querySelector("[data-table]"), caption: node.querySelector("figcaption") };
    };
    const arrow = column => column.better === true ? "higher is better" : column.better === false ? "lower is better" : "no direction";

    const forest = charted => {
      const { node, chart, table: place, caption } = view("forest");
      const i = Number(number.value), base = Number(against.value), column = task.columns[i];
      const rows = [];
      for (const [a, b, change, low, high, p] of task.pairs[column.key] || []) {
        if (a === base) rows.push([b, change, low, high, p]);
        if (b === base) rows.push([a, -change, known(high) ? -high : null, known(low) ? -low : null, p]);
      }
      node.hidden = rows.length === 0;
      if (node.hidden) return;
      rows.sort((x, y) => x[1] - y[1]);
      const name = row => task.runs[row[0]].model, sure = row => row[4] <= data.alpha;
      caption.textContent = `${column.key}, each run minus ${task.runs[base].model}; ${arrow(column)}. Filled: a real difference ` +
        `(p ≤ ${data.alpha} after Holm over all pairs of the column); hollow: none that a test can tell. Bars: intervals of the difference.`;
      table(place, ["run", "difference", "interval", "p (Holm)"],
        rows.slice().reverse().map(row => [name(row), signed(row[1]), between(row[2], row[3], signed), row[4] < 0.001 ? "< 0.001" : row[4].toFixed(3)]));
      if (!charted) return;
      chart.setAttribute("role", "img");
      chart.setAttribute("aria-label", `Forest plot of ${column.key}; the numbers are in the table below`);
      plot(chart, [{ type: "scatter", mode: "markers", x: rows.map(row => row[1]), y: rows.map(row => literal(name(row))),
        error_x: { type: "data", symmetric: false, array: rows.map(row => known(row[3]) ? row[3] - row[1] : 0), arrayminus: rows.map(row => known(row[2]) ? row[1] - row[2] : 0), color: style("--soft"), thickness: 1.6 },
        marker: { size: 10, color: rows.map(row => sure(row) ? COLOURS[0] : style("--bg")), line: { color: COLOURS[0], width: 2 } },
        hovertemplate: "%{y}: %{x:.4f}<extra></extra>" }],
      layout(110 + 30 * rows.length, { xaxis: axis({ title: { text: `difference (${arrow(column)})` }, zeroline: true, zerolinewidth: 2 }), yaxis: axis({ type: "category" }) }));
    };

    const pareto = charted => {
      const { node, chart, table: place, caption } = view("pareto");
      const i = Number(number.value), column = task.columns[i];
      const points = task.runs.filter(run => run.speed.reports_per_s > 0 && run.values[i] && known(run.values[i][0]))
        .map(run => ({ run, x: run.speed.reports_per_s, y: run.values[i][0], low: run.values[i][1], high: run.values[i][2] }))
        .sort((a, b) => b.x - a.x);
      node.hidden = points.length < 2;
      if (node.hidden) return;
      const machines = [...new Set(points.map(point => point.run.machine))].sort();
      const better = column.better === false ? -1 : 1;
      const front = machine => {
        let best = -Infinity;
        return points.filter(point => point.run.machine === machine).sort((a, b) => b.x - a.x || better * (b.y - a.y))
          .filter(point => better * point.y > best && (best = better * point.y, true));
      };
      const onFront = new Set(machines.flatMap(front));
      const key = make("p", { class: "key" }, ...points.map((point, k) => make("span", {}, make("b", {}, `${k + 1}`), `\u00a0${point.run.model}`)));
      caption.replaceChildren(key, `${column.key} (${arrow(column)}) against ${task.written} per second, speeds as docs/speed.md defines them. ` +
        "A line joins the runs that no other run of the same machine and engine beats in both. " +
        machines.map((machine, k) => `${SYMBOLS[k % SYMBOLS.length]}: ${machine || "machine not recorded"}`).join("; ") + ".");
      table(place, ["run", column.key, `${task.written}/s`, "tokens/s", "latency p50", "unbeaten", "machine"], points
        .map((point, k) => [`${k + 1} ${point.run.model}`, column.whole ? point.y.toFixed(0) : figure(point.y), figure(point.x), figure(point.run.speed.tokens_per_s), known(point.run.speed.latency_p50) ? `${figure(point.run.speed.latency_p50)} s` : "–", onFront.has(point) ? "yes" : "", point.run.machine]));
      if (!charted) return;
      chart.setAttribute("role", "img");
      chart.setAttribute("aria-label", `Quality against speed, ${column.key}; the numbers are in the table below`);
      const xs = points.map(point => Math.log10(point.x)), spare = 0.2 * (Math.max(...xs) - Math.min(...xs)) + 0.1;
      const ys = points.flatMap(point => [point.y, point.low, point.high]).filter(known), over = 0.08 * (Math.max(...ys) - Math.min(...ys)) || 0.05;
      const ranges = [[Math.min(...xs) - spare, Math.max(...xs) + spare], [Math.min(...ys) - over, Math.max(...ys) + over]];
      // A dot carries its number and the caption its name: names beside dots meet each other and other error bars.
      const mine = machine => points.filter(point => point.run.machine === machine), heaps = [];
      const sizes = [(onPaper ? PAPER : chart.clientWidth) - 80, 310]; // of the drawing, about
      const spot = point => [Math.log10(point.x), point.y].map((value, k) => value / (ranges[k][1] - ranges[k][0]) * sizes[k]);
      const near = (a, b) => Math.hypot(...spot(a).map((value, k) => value - spot(b)[k])) < DOT;
      for (const point of machines.flatMap(mine)) {
        const met = heaps.filter(heap => heap.some(other => near(point, other)));
        for (const heap of met) heaps.splice(heaps.indexOf(heap), 1);
        heaps.push([...met.flat(), point]);
      }
      const numbers = new Map(heaps.map(heap => [heap.at(-1), heap.map(point => points.indexOf(point) + 1).sort((a, b) => a - b).join("+")]));
      if (heaps.length < points.length) caption.append(" 1+2: dots that lie on one another.");
      const base = { type: "scatter", cliponaxis: false }, colour = k => COLOURS[k % COLOURS.length];
      const traces = [
        ...machines.map((machine, k) => ({ ...base, mode: "lines", x: front(machine).map(p => p.x), y: front(machine).map(p => p.y), line: { color: colour(k), dash: "dot" }, hoverinfo: "skip" })),
        { ...base, mode: "markers", x: points.map(p => p.x), y: points.map(p => p.y), marker: { size: 1, color: style("--soft") }, hoverinfo: "skip",
          error_y: { type: "data", symmetric: false, array: points.map(p => known(p.high) ? p.high - p.y : 0), arrayminus: points.map(p => known(p.low) ? p.y - p.low : 0), color: style("--soft"), thickness: 1.2 } },
        ...machines.map((machine, k) => ({ ...base, mode: "markers+text", x: mine(machine).map(p => p.x), y: mine(machine).map(p => p.y), text: mine(machine).map(p => numbers.get(p) || ""),
          textposition: mine(machine).map(p => /\+/.test(numbers.get(p)) ? "middle right" : "middle center"), textfont: { color: style("--ink"), size: 12 },
          marker: { size: DOT, opacity: 1, symbol: SYMBOLS[k % SYMBOLS.length], color: style("--bg"), line: { color: colour(k), width: 2.5 } },
          customdata: mine(machine).map(p => literal(p.run.model)), hovertemplate: "%{customdata}: %{y:.4f}, %{x:.3g} " + task.written + "/s<extra></extra>" })),
      ];
      plot(chart, traces, layout(380, { xaxis: axis({ type: "log", title: { text: `${task.written} per second` }, range: ranges[0], ...marks(...ranges[0].map(value => 10 ** value)) }), yaxis: axis({ range: ranges[1], title: { text: literal(column.key) } }) }));
    };

    const labels = () => {
      const { node, table: place, caption } = view("labels");
      node.hidden = !task.labels || !task.labels.names.length;
      if (node.hidden) return;
      caption.textContent = `${task.labels.metric}: F1 of each label. –: the label neither occurs nor is said (0/0).`;
      table(place, ["run", ...task.labels.names], task.runs.map((run, r) => [run.model, ...task.labels.rows[r].map(value =>
        known(value) ? make("td", { class: `h${Math.max(0, Math.min(9, Math.floor(value * 10)))}` }, value.toFixed(2)) : make("td", {}, "–"))]), "heat");
    };

    const subgroups = () => {
      const { node, table: place, caption } = view("slices");
      const body = task.slices[slice.value], i = number.value, column = task.columns[Number(i)];
      node.hidden = !body || !body.rows.some(row => row.some(cell => cell && cell[2][i]));
      if (node.hidden) return;
      caption.textContent = `${column.key} by ${slice.value}: value, its interval, and the gap, the group minus all other samples. ` +
        "Bold with a triangle: the gap's interval leaves out 0. Intervals are not corrected for how many there are: for orientation. " +
        `Spread: largest minus smallest value. “hidden”: fewer than ${data.few} ${task.clusters}, or needed to hide such a group.`;
      const sizes = body.groups.map((name, g) => {
        const cell = body.rows.map(row => row[g]).find(Boolean);
        return cell ? `${name} (${cell[0]})` : name;
      });
      table(place, ["run", ...sizes, "spread"], task.runs.map((run, r) => {
        const values = [];
        const cells = body.rows[r].map(cell => {
          const found = cell && cell[2][i];
          if (!found) return make("td", { class: "number" }, cell ? "–" : "hidden");
          const [value, low, high, gap, from, to] = found;
          if (known(value)) values.push(value);
          const sure = known(from) && known(to) && (from > 0 || to < 0);
          const node = make("td", { class: "number", title: `${cell[0]} samples, ${cell[1]} ${task.clusters}; ${between(low, high)}` }, figure(value));
          if (known(low)) node.append(make("span", { class: "gap" }, between(low, high)));
          if (known(gap)) node.append(make("span", { class: sure ? "gap sure" : "gap", title: `gap ${between(from, to, signed)}` }, `${sure ? (gap > 0 ? "▲ " : "▼ ") : ""}${signed(gap)}`));
          return node;
        });
        return [run.model, ...cells, values.length > 1 ? figure(Math.max(...values) - Math.min(...values)) : "–"];
      }));
    };

    let seen = false;
    const show = () => {
      if (seen) for (const draw of [forest, pareto, labels, subgroups]) draw(true);
      remember(at, "number", number.value === "0" ? "" : number.value);
      remember(at, "against", Number(against.value) === task.baseline ? "" : against.value);
      remember(at, "slice", slice.selectedIndex > 0 ? slice.value : "");
    };
    for (const each of [number, against, slice]) each.addEventListener("change", show);

    const restore = () => {
      const get = name => state.get(`${at}.${name}`);
      const pick = (node, value) => { if (node && value !== null && [...node.options].some(each => each.value === value)) node.value = value; };
      find("filter").value = get("q") || "";
      pick(find("inputs"), get("inputs") || "");
      if (reported) find("reported").checked = get("reported") !== "no";
      const hidden = (get("hide") || "").split(".");
      section.querySelectorAll("[data-do=column]").forEach(box => { box.checked = !hidden.includes(box.value); });
      pick(number, get("number") || "0");
      pick(against, get("against") || String(task.baseline));
      pick(slice, get("slice"));
      const wanted = /^([-+])(.+)$/.exec(get("sort") || "");
      columns();
      filter();
      if (wanted && heads.some(each => each.dataset.sort === wanted[2])) sort(wanted[2], wanted[1] === "-");
      else if (task.columns.length) sort("0", bestFirst("0"));
      show();
    };
    // What lies below the tables is made when it comes into sight: a large board opens at once.
    const reveal = () => {
      if (seen) return;
      seen = true;
      drawn.add(() => { forest(true); pareto(true); });
      show();
    };
    views.hidden = false;
    restore();
    restorers.push(restore);
    new IntersectionObserver((entries, watcher) => {
      if (!entries.some(entry => entry.isIntersecting)) return;
      watcher.disconnect();
      reveal();
    }, { rootMargin: "200px" }).observe(views);
    addEventListener("beforeprint", () => { section.querySelectorAll("figure > details:not([open]), details.notes:not([open])").forEach(each => { each.open = true; opened.add(each); }); reveal(); });
  };

  const restorers = [], opened = new Set();
  // On paper charts are light and as wide as paper, and the tables of their numbers stand below them.
  addEventListener("beforeprint", () => { onPaper = true; root.dataset.theme = "light"; redraw(); });
  addEventListener("afterprint", () => { opened.forEach(each => { each.open = false; }); opened.clear(); onPaper = false; setTheme(theme.value); });
  const chosen = () => {
    document.querySelectorAll("tr.chosen").forEach(row => row.classList.remove("chosen"));
    const row = state.get("run") && document.getElementById(`run-${state.get("run")}`);
    if (!row) return;
    row.classList.add("chosen");
    const sections = [...document.querySelectorAll("section.task")]; // as high as they are, or the row would move away
    for (const each of sections.slice(0, sections.indexOf(row.closest("section.task")) + 1)) each.style.contentVisibility = "visible";
    row.scrollIntoView({ block: "center", behavior: "instant" });
  };
  document.querySelectorAll("section.task").forEach(setUp);
  quiet = false;
  chosen();
  addEventListener("hashchange", () => {
    const next = readState();
    if (next.has("run") && [...next.keys()].length === 1) { state.set("run", next.get("run")); history.replaceState(null, "", `#${state}`); }
    else if (/^#(task|main)/.test(location.hash)) return;
    else { state = next; quiet = true; restorers.forEach(restore => restore()); quiet = false; }
    chosen();
  });
  theme.addEventListener("change", () => { store.set(theme.value); setTheme(theme.value); });
  setTheme(["light", "dark"].includes(store.get()) ? store.get() : "system");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
})();
