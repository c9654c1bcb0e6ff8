(() => {
  const data = JSON.parse(byId("data").textContent);
  const samples = data.samples, LABELS = data.labels, RUNS = data.runs.length, ROW = 64;
  const NOTHING = LABELS.length - 1; // No Finding: the absence of the others, no finding that could be missed
  const SIGNS = { 0: "", 1: "+", 2: "−", 3: "?" }, SAID = { 0: "not mentioned", 1: "present", 2: "absent", 3: "uncertain" };
  const ERRORS = [["", "any"], ["missed", "missed finding"], ["invented", "invented finding"], ["lost", "missed entity"],
    ["added", "invented entity"], ["cut", "cut off at the length limit"], ["none", "no report or empty"], ["right", "no error in labels"]];
  const present = (labels, at) => labels !== null && (labels[at] === "1" || labels[at] === "3");
  const place = new Map(samples.map((sample, at) => [sample.key, at]));
  const state = { at: -1, focus: 0, marks: "findings" };
  let listed = [];

  // ---- what is wrong with a report, worked out once for every sample and run
  for (const sample of samples) {
    const answers = sample.runs.flatMap(run => run.judged.flatMap(said => said ? said[2].map(([, text]) => text) : []));
    sample.search = [sample.id, sample.text, ...sample.runs.map(run => run.text), ...answers].join("\n").toLowerCase();
    sample.runs.forEach((run, at) => {
      const known = sample.labels !== null && run.labels !== null;
      const count = test => known ? LABELS.map((_, label) => label).filter(label => label !== NOTHING && test(label)) : [];
      run.known = known;
      run.missed = count(label => present(sample.labels, label) && !present(run.labels, label));
      run.invented = count(label => !present(sample.labels, label) && present(run.labels, label));
      run.lost = run.marks && sample.marks ? sample.marks.filter(mark => !(mark[3] >> at & 1)).length : 0;
      run.added = run.marks ? run.marks.filter(mark => !mark[3]).length : 0;
    });
    const said = sample.runs.filter(run => run.labels !== null);
    sample.disagree = said.length > 1 && LABELS.some((_, label) => new Set(said.map(run => present(run.labels, label))).size > 1);
  }

  // ---- controls
  const option = (value, text) => make("option", { value }, text);
  byId("focus").append(...data.runs.map((name, at) => option(at, name)));
  byId("label").append(...LABELS.map((name, at) => option(at, name)));
  byId("error").append(...ERRORS.map(each => option(...each)), ...data.judged.map((each, at) => make("optgroup", { label: `${each.metric}, by the judge` },
    ...each.categories.map((name, kind) => option(`j${at}.${kind}`, name)), option(`j${at}.x`, "not scored"))));
  byId("column").append(...data.columns.map((column, at) => option(at, column.key)));
  const groups = new Map();
  for (const sample of samples) for (const [name, value] of Object.entries(sample.groups)) groups.set(name, (groups.get(name) || new Set()).add(value));
  for (const [name, values] of [...groups].sort()) if (values.size > 1 && values.size <= 40) {
    byId("group").append(make("optgroup", { label: plain(name) }, ...[...values].sort().map(value => option(`${name}=${value}`, plain(value)))));
  }
  const orders = [["", "of the data"], ["best", "best value first"], ["worst", "worst value first"]];
  if (RUNS > 1) orders.push(["apart", "runs furthest apart first"]);
  byId("order").append(...orders.map(each => option(...each)));
  byId("disagree-label").hidden = RUNS < 2 || !data.stored.chexbert;
  if (!data.stored.chexbert) byId("label").disabled = true;
  const FIELDS = { q: "query", run: "focus", label: "label", error: "error", group: "group", value: "column", low: "low", high: "high", order: "order" };

  const value = (run, column) => column === -1 ? null : run.values[column];
  const column = () => data.columns.length ? Number(byId("column").value) : -1;
  const spread = sample => {
    const numbers = sample.runs.map(run => value(run, column())).filter(each => each !== null);
    return numbers.length > 1 ? Math.max(...numbers) - Math.min(...numbers) : -1;
  };
  const wrong = {
    missed: (run, label) => label === null ? run.missed.length > 0 : run.missed.includes(label),
    invented: (run, label) => label === null ? run.invented.length > 0 : run.invented.includes(label),
    lost: run => run.lost > 0, added: run => run.added > 0, cut: run => run.cut, none: run => run.failed || !run.text,
    right: run => run.known && !run.missed.length && !run.invented.length,
  };
  const mistake = error => { // of the labels and entities, or `j0.3`: kind 3 of what the first judged metric counts
    const [, at, kind] = /^j(\d+)\.(\d+|x)$/.exec(error) || [];
    if (at === undefined) return wrong[error];
    return run => { const said = run.judged[at]; return said !== null && (kind === "x" ? said[1] !== "" : said[0] !== null && said[0][kind] > 0); };
  };
  const number = id => byId(id).value === "" ? null : Number(byId(id).value);
  const filter = () => {
    const query = byId("query").value.trim().toLowerCase(), error = byId("error").value, group = byId("group").value;
    const label = byId("label").value === "" ? null : Number(byId("label").value), at = column(), low = number("low"), high = number("high");
    const cutAt = group.indexOf("="), name = group.slice(0, cutAt), member = group.slice(cutAt + 1), apartOnly = byId("disagree").checked;
    const aboutLabel = error === "missed" || error === "invented", isWrong = error ? mistake(error) : null;
    listed = [];
    samples.forEach((sample, index) => {
      const run = sample.runs[state.focus], score = value(run, at);
      if (query && !sample.search.includes(query)) return;
      if (isWrong && !isWrong(run, label)) return;
      if (label !== null && !aboutLabel && !present(sample.labels, label)) return;
      if (group && sample.groups[name] !== member) return;
      if (low !== null && !(score !== null && score >= low)) return;
      if (high !== null && !(score !== null && score <= high)) return;
      if (apartOnly && !sample.disagree) return;
      listed.push(index);
    });
    order(at);
  };
  const order = at => {
    const wanted = byId("order").value, better = at >= 0 && data.columns[at].better === false ? -1 : 1;
    const sign = wanted === "worst" ? better : -better;
    const of = wanted === "apart" ? index => -spread(samples[index])
      : index => { const score = value(samples[index].runs[state.focus], at); return score === null ? Infinity : sign * score; };
    if (wanted) listed = listed.map(index => [of(index), index]).sort((x, y) => x[0] - y[0] || x[1] - y[1]).map(each => each[1]);
  };

  // ---- the list: only the rows in sight are in the page
  const list = byId("list"), tall = make("div", { role: "presentation" });
  list.append(tall);
  const figure = score => score === null ? "–" : Math.abs(score) < 10 ? score.toFixed(3) : score.toFixed(1);
  const short = text => plain(text.slice(0, 90));
  const row = position => {
    const index = listed[position], sample = samples[index], run = sample.runs[state.focus];
    const counts = make("span", { class: "count" });
    if (run.missed.length) counts.append(make("span", { class: "count missed" }, ` ${run.missed.length} missed`));
    if (run.invented.length) counts.append(make("span", { class: "count invented" }, ` ${run.invented.length} invented`));
    if (run.failed) counts.append(make("span", { class: "outcome" }, " no report"));
    const node = make("div", { role: "option", class: "row", id: `row-${index}`, "aria-selected": String(index === state.at), "aria-posinset": position + 1, "aria-setsize": listed.length },
      make("div", { class: "line" }, make("b", {}, plain(sample.id.slice(0, 80))), make("span", { class: "count" }, figure(value(run, column())))),
      make("div", { class: "begin" }, short(sample.text)), counts);
    node.style.top = `${position * ROW}px`;
    node.addEventListener("click", () => show(index));
    return node;
  };
  const paint = () => {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 6), last = Math.min(listed.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 6);
    const rows = [];
    for (let position = first; position < last; position++) rows.push(row(position));
    tall.replaceChildren(...rows);
    const chosen = byId(`row-${state.at}`);
    if (chosen) list.setAttribute("aria-activedescendant", chosen.id); else list.removeAttribute("aria-activedescendant");
  };
  let waiting = false;
  list.addEventListener("scroll", () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; paint(); }); } });
  window.addEventListener("resize", paint);
  const reveal = () => {
    const position = listed.indexOf(state.at);
    if (position < 0) return;
    if (position * ROW < list.scrollTop) list.scrollTop = position * ROW;
    if ((position + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (position + 1) * ROW - list.clientHeight;
  };
  const relist = (fromTop = false) => {
    filter();
    tall.style.height = `${Math.max(1, listed.length) * ROW}px`;
    list.scrollTop = 0;
    byId("status").textContent = `${listed.length.toLocaleString("en")} of ${samples.length.toLocaleString("en")} samples`;
    if (listed.length && (fromTop || !listed.includes(state.at))) show(listed[0]); else { reveal(); paint(); remember(); }
    if (!listed.length) paint();
  };

  // ---- the address: filters and the sample, so that a link shows what its sender saw
  const remember = () => {
    const address = new URLSearchParams();
    if (state.at >= 0) address.set("s", samples[state.at].key);
    for (const [name, id] of Object.entries(FIELDS)) if (byId(id).value !== "" && !(["run", "value"].includes(name) && byId(id).value === "0")) address.set(name, byId(id).value);
    if (byId("disagree").checked) address.set("disagree", "1");
    history.replaceState(null, "", `#${address}`);
  };
  const recall = () => {
    const address = new URLSearchParams(location.hash.slice(1));
    for (const [name, id] of Object.entries(FIELDS)) if (address.has(name)) {
      byId(id).value = address.get(name);
      if (byId(id).tagName === "SELECT" && byId(id).selectedIndex < 0) byId(id).selectedIndex = 0;
    }
    byId("disagree").checked = address.get("disagree") === "1";
    state.focus = Number(byId("focus").value);
    return place.has(address.get("s")) ? place.get(address.get("s")) : -1;
  };

  // ---- one sample
  const titleOf = (mark, status) => `${data.kinds[mark[2]]}: ${status}`;
  const entityMarks = (marks, isMatched, otherwise) => marks.filter(mark => mark[0] >= 0).map(mark => {
    const kind = isMatched(mark) ? "matched" : otherwise, faint = /(absent|uncertain|-DA|-U)\b/.test(data.kinds[mark[2]]) ? " absent" : "";
    return [mark[0], mark[1], kind + faint, titleOf(mark, kind === "matched" ? "in both" : kind)];
  });
  const pieces = (sample, at) => { // of the reference (at = -1) or of run `at`
    const run = sample.runs[at < 0 ? state.focus : at], text = at < 0 ? sample.text : run.text;
    if (state.marks === "nothing" || run.failed) return { pieces: undefined };
    if (state.marks === "findings" && sample.marks && run.marks) {
      const marks = at < 0 ? entityMarks(sample.marks, mark => mark[3] >> state.focus & 1, "missed") : entityMarks(run.marks, mark => mark[3], "invented");
      return { pieces: cut(text, marks), unplaced: (at < 0 ? sample.marks : run.marks).filter(mark => mark[0] < 0).length };
    }
    const found = apart(sample.text, run.text);
    const note = state.marks === "findings" && at < 0 ? "nothing is stored of RadGraph for these texts: words are aligned" : "";
    return found ? { pieces: cut(text, found[at < 0 ? 0 : 1]), note } : { pieces: undefined, note: "too long to align words" };
  };
  const column_of = (heading, text, made, more, focused) => make("section", { class: `report${focused ? " focus" : ""}` }, make("h3", {}, heading), report(text, made.pieces),
    ...(made.note ? [make("p", { class: "outcome" }, made.note)] : []), ...(made.unplaced ? [make("p", { class: "outcome" }, `${made.unplaced} entities are not found in the text as written`)] : []), ...more);
  const judgement = (said, about, judge) => {
    const [counts, why, answers] = said;
    const found = counts === null ? [] : counts.flatMap((count, kind) => count > 0 ? [make("li", {}, `${about.categories[kind]} `, make("b", {}, String(count)))] : []);
    const box = make("section", { class: "judge" }, make("h4", {}, about.metric, make("small", {}, `judge ${judge}`)));
    if (why) box.append(make("p", { class: "outcome" }, "not scored: ", ...shown(why)));
    else if (found.length) box.append(make("ul", {}, ...found));
    else if (about.categories.length) box.append(make("p", { class: "about" }, "no error counted"));
    if (answers.length) {
      const all = make("details", {}, make("summary", {}, answers.length === 1 ? "What the judge wrote" : `What the judge wrote (${answers.length} answers)`));
      all.open = answers.length === 1;
      for (const [name, text] of answers) all.append(...(name ? [make("p", { class: "about" }, ...shown(name))] : []), report(text));
      box.append(all);
    }
    return box;
  };
  const answer = (sample, at) => {
    const run = sample.runs[at], more = [];
    if (run.outcome !== "ok") more.push(make("p", { class: "outcome" }, `outcome: ${run.outcome}`));
    if (run.cut) more.push(make("p", { class: "outcome" }, "cut off at the length limit"));
    if (data.columns.length) more.push(make("div", { class: "values" }, ...data.columns.map((each, index) => make("span", {}, `${each.key} `, make("b", {}, figure(run.values[index]))))));
    run.judged.forEach((said, index) => { if (said) more.push(judgement(said, data.judged[index], data.judged[index].judges[at])); });
    return column_of(data.runs[at], run.text, pieces(sample, at), more, RUNS > 1 && at === state.focus);
  };
  const sign = (labels, at) => labels === null ? "" : SIGNS[labels[at]];
  const labelTable = sample => {
    const some = LABELS.map((_, at) => at).filter(at => [sample.labels, ...sample.runs.map(run => run.labels)].some(labels => labels !== null && labels[at] !== "0"));
    if (!some.length) return make("p", { class: "about" }, data.stored.chexbert ? "No label is stored for these texts, or none is mentioned." : "No labels: nothing is stored of CheXbert for these reports.");
    const cell = (labels, at, kind) => make("td", { class: `sign${kind ? ` ${kind}` : ""}` }, make("span", { "aria-hidden": "true" }, sign(labels, at)), make("span", { class: "hidden" }, labels === null ? "not stored" : SAID[labels[at]]), ...(kind ? [` ${kind}`] : []));
    const kindOf = (run, at) => run.missed.includes(at) ? "missed" : run.invented.includes(at) ? "invented" : "";
    return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Labels of CheXbert" }, make("table", { class: "labels" },
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "CheXbert label"), make("th", { scope: "col", class: "sign" }, "reference"), ...data.runs.map(name => make("th", { scope: "col", class: "sign" }, name)))),
      make("tbody", {}, ...some.map(at => make("tr", {}, make("th", { scope: "row" }, LABELS[at]), cell(sample.labels, at, ""), ...sample.runs.map(run => cell(run.labels, at, kindOf(run, at))))))));
  };
  const show = index => {
    const first = state.at < 0;
    state.at = index;
    const sample = samples[index], detail = byId("detail");
    const position = listed.indexOf(index), facts = Object.entries(sample.groups).map(([name, text]) => `${plain(name)} ${plain(text)}`).join(" · ");
    const step = (text, by) => { const button = make("button", { type: "button" }, text); button.addEventListener("click", () => move(by)); button.disabled = !(position + by in listed); return button; };
    const which = make("select", { id: "marks", "aria-label": "What is marked" }, ...["findings", "words", "nothing"].map(name => option(name, `mark ${name}`)));
    which.value = state.marks;
    which.addEventListener("change", () => { state.marks = which.value; show(state.at); byId("marks").focus(); });
    const copy = make("button", { type: "button" }, "Copy link");
    copy.addEventListener("click", async () => { remember(); try { await navigator.clipboard.writeText(location.href); byId("status").textContent = "the link is copied"; } catch { byId("status").textContent = "the browser did not let the page copy: the address of the page is the link"; } });
    detail.replaceChildren(
      make("div", { class: "bar" }, make("h2", {}, plain(sample.id)), make("span", { class: "buttons" }, step("← Previous", -1), step("Next →", 1), which, copy)),
      make("p", { class: "sections" }, facts),
      ...Object.entries(sample.sections).map(([name, text]) => make("p", { class: "sections" }, make("b", {}, `${plain(name)}: `), ...shown(text.slice(0, 2000)))),
      pictures(sample.images, data.block),
      make("div", { class: "reports" }, column_of(RUNS > 1 ? `Reference (marked against ${data.runs[state.focus]})` : "Reference", sample.text, pieces(sample, -1), []), ...sample.runs.map((_, at) => answer(sample, at))),
      labelTable(sample));
    detail.scrollTop = 0;
    detail.setAttribute("aria-label", `Sample ${plain(sample.id.slice(0, 80))}`);
    if (!first) reveal();
    paint();
    remember();
  };
  const move = by => { const position = listed.indexOf(state.at) + by; if (position in listed) show(listed[position]); };

  // ---- events
  for (const id of ["query", "low", "high"]) byId(id).addEventListener("input", () => relist());
  for (const id of ["label", "error", "group", "disagree"]) byId(id).addEventListener("change", () => relist());
  for (const id of ["column", "order"]) byId(id).addEventListener("change", () => relist(byId("order").value !== "")); // another order is read from its top
  byId("focus").addEventListener("change", () => setFocus(Number(byId("focus").value)));
  const setFocus = at => { state.focus = at; byId("focus").value = at; relist(); if (state.at >= 0) show(state.at); };
  byId("reset").addEventListener("click", () => {
    for (const [name, id] of Object.entries(FIELDS)) if (name !== "run") { if (byId(id).tagName === "SELECT") byId(id).selectedIndex = 0; else byId(id).value = ""; }
    byId("disagree").checked = false;
    relist();
  });
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  byId("help-close").addEventListener("click", () => byId("help").close());
  const nextMarks = () => { const all = ["findings", "words", "nothing"]; state.marks = all[(all.indexOf(state.marks) + 1) % 3]; show(state.at); };
  const keys = { j: () => move(1), k: () => move(-1), m: nextMarks, "/": () => byId("query").focus(),
    z: () => { const button = document.querySelector("[data-zoom]"); if (button) button.click(); } };
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.key === "Escape" && event.target === byId("query")) { list.focus(); return; }
    if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName)) return;
    const inList = event.target === list;
    const act = keys[event.key] || (inList && { ArrowDown: () => move(1), ArrowUp: () => move(-1), Home: () => show(listed[0]), End: () => show(listed[listed.length - 1]) }[event.key])
      || (/^[1-4]$/.test(event.key) && Number(event.key) <= RUNS && (() => setFocus(Number(event.key) - 1)));
    if (!act || state.at < 0) return;
    event.preventDefault();
    act();
  });
  window.addEventListener("hashchange", () => { const at = recall(); relist(); if (at >= 0) show(at); });
  const at = recall();
  if (at >= 0) state.at = at;
  relist();
  if (at >= 0) { show(at); reveal(); paint(); }
})();
