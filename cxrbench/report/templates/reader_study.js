(() => {
  const data = JSON.parse(byId("data").textContent);
  const items = data.items, LETTERS = ["A", "B", "C", "D", "E"];
  const place = `cxrbench-study-${data.study}`;
  const say = text => { byId("status").textContent = text; };
  let at = 0, saved = { reader: "", items: {} };

  // ---- answers, kept in this browser after every one
  try { const before = JSON.parse(kept.get(place)); if (before && before.items) saved = before; } catch { /* nothing was kept */ }
  const keep = () => {
    if (!kept.set(place, JSON.stringify(saved))) say("This browser does not keep answers: export them before you close the page.");
    progress();
  };
  const blank = item => ({ ratings: item.parts.includes("ratings") ? item.reports.map(() => ({})) : [],
    errors: item.parts.includes("errors") ? item.reports.map(() => null) : [], preferences: {}, done: false });
  const answerOf = item => { if (!saved.items[item.item]) saved.items[item.item] = blank(item); return saved.items[item.item]; };
  const pairsOf = item => item.reports.flatMap((_, a) => item.reports.slice(a + 1).map((_, b) => [a, a + 1 + b]));
  const complete = item => {
    const answer = saved.items[item.item];
    if (!answer) return false;
    return answer.ratings.every(each => data.scales.every(([scale]) => scale in each)) && answer.errors.every(each => each !== null)
      && (!item.parts.includes("preferences") || pairsOf(item).every(([a, b]) => `${a}-${b}` in answer.preferences));
  };
  const progress = () => {
    const done = items.filter(complete).length;
    byId("bar").max = items.length;
    byId("bar").value = done;
    byId("count").textContent = `${done} of ${items.length} answered`;
  };
  const change = (item, edit) => { const answer = answerOf(item); edit(answer); answer.done = complete(item); keep(); };

  // ---- one case
  const radio = (name, value, text, checked, act) => {
    const input = make("input", { type: "radio", name, value, id: `${name}-${value}` });
    input.checked = checked;
    input.addEventListener("change", act);
    return make("label", { for: `${name}-${value}` }, input, text);
  };
  const scale = (item, position, [kind, title, low, high]) => make("fieldset", {}, make("legend", {}, title),
    make("div", { class: "scale" }, ...data.points.map(point => radio(`${kind}-${position}`, point, String(point), answerOf(item).ratings[position][kind] === point,
      () => change(item, answer => { answer.ratings[position][kind] = point; }))), make("span", { class: "end" }, `1: ${low} · 5: ${high}`)));
  const errors = (item, position) => {
    const box = make("fieldset", {}, make("legend", {}, "Errors")), grid = make("div", { class: "errors" });
    const none = make("input", { type: "checkbox", id: `none-${position}` }), inputs = [];
    const now = () => answerOf(item).errors[position];
    none.checked = now() !== null && Object.keys(now()).length === 0;
    none.addEventListener("change", () => { inputs.forEach(input => { input.value = ""; }); change(item, answer => { answer.errors[position] = none.checked ? {} : null; }); });
    grid.append(make("span", {}), ...data.significance.map(word => make("span", { class: "head" }, word)));
    for (const [kind, words] of data.errors) {
      grid.append(make("span", {}, words));
      data.significance.forEach((word, column) => {
        const input = make("input", { type: "number", min: "0", max: "99", step: "1", inputmode: "numeric", "aria-label": `${words}, ${word}, report ${LETTERS[position]}` });
        input.value = now() && now()[kind] && now()[kind][column] ? now()[kind][column] : "";
        input.addEventListener("input", () => change(item, answer => {
          const counts = answer.errors[position] || (answer.errors[position] = {}), pair = counts[kind] || [0, 0];
          pair[column] = Math.min(99, Math.max(0, Math.floor(Number(input.value) || 0)));
          if (pair[0] || pair[1]) counts[kind] = pair; else delete counts[kind];
          if (!Object.keys(counts).length) answer.errors[position] = null; // taken back: the tick says that there is none
          none.checked = false;
        }));
        inputs.push(input);
        grid.append(input);
      });
    }
    box.append(make("label", { class: "check", for: `none-${position}` }, none, " no error"), grid);
    return box;
  };
  const prefer = item => pairsOf(item).map(([a, b]) => {
    const name = `prefer-${a}-${b}`, key = `${a}-${b}`;
    const text = { first: `${LETTERS[a]} is better`, second: `${LETTERS[b]} is better`, equal: "equally good" };
    return make("fieldset", {}, make("legend", {}, `Report ${LETTERS[a]} or report ${LETTERS[b]}?`), make("div", { class: "prefer" },
      ...["first", "equal", "second"].map(choice => radio(name, choice, text[choice], answerOf(item).preferences[key] === choice, () => change(item, answer => { answer.preferences[key] = choice; })))));
  });
  const show = next => {
    at = Math.min(items.length - 1, Math.max(0, next));
    const item = items[at];
    const step = (id, text, act, off) => { const button = make("button", { type: "button", id }, text); button.addEventListener("click", act); button.disabled = off; return button; };
    const part = (words, text, kind, ...more) => make("section", { class: `report ${kind}` }, make("h3", {}, words), report(text), ...more);
    byId("case").replaceChildren(
      make("h2", {}, `Case ${at + 1} of ${items.length}`),
      ...Object.entries(item.sections).map(([name, text]) => make("p", { class: "sections" }, make("b", {}, `${plain(name)}: `), ...shown(text.slice(0, 5000)))),
      pictures(item.images, data.block),
      ...(item.reference === null ? [] : [part("Reference", item.reference, "reference")]),
      make("div", { class: "reports" }, ...item.reports.map((text, position) => part(`Report ${LETTERS[position]}`, text, "", ...(item.parts.includes("ratings") ? data.scales.map(each => scale(item, position, each)) : []), ...(item.parts.includes("errors") ? [errors(item, position)] : [])))),
      ...(item.parts.includes("preferences") ? prefer(item) : []),
      make("div", { class: "steps" }, step("previous", "← Previous", () => show(at - 1), at === 0), step("next", "Next →", () => show(at + 1), at === items.length - 1), step("open", "Next unanswered", unanswered, false)));
    window.scrollTo(0, 0);
    history.replaceState(null, "", `#${item.item}`);
  };
  const unanswered = () => {
    const next = [...items.keys()].map(step => (at + 1 + step) % items.length).find(index => !complete(items[index]));
    if (next === undefined) say("Every case is answered. Export your answers."); else show(next);
  };

  // ---- out and in
  byId("reader").value = saved.reader;
  byId("reader").addEventListener("input", () => { saved.reader = byId("reader").value.trim(); keep(); });
  const given = () => Object.fromEntries(Object.entries(saved.items).filter(([, answer]) => Object.keys(answer.preferences).length || answer.ratings.some(each => Object.keys(each).length) || answer.errors.some(each => each !== null)));
  byId("export").addEventListener("click", () => {
    if (!saved.reader) { say("Please give your initials first."); byId("reader").focus(); return; }
    const body = JSON.stringify({ what: data.what, format: data.format, study: data.study, reader: saved.reader, items: given() }, null, 1);
    const link = make("a", { href: URL.createObjectURL(new Blob([body], { type: "application/json" })), download: `answers-${data.study}-${saved.reader.replace(/[^A-Za-z0-9_-]+/g, "_")}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    const open = items.filter(item => !complete(item)).length;
    say(open ? `Exported; ${open} cases are not answered yet.` : "Exported; every case is answered.");
  });
  const fits = body => body && body.what === data.what && body.format === data.format && body.study === data.study && typeof body.reader === "string" && body.items && typeof body.items === "object";
  const sound = (item, answer) => {
    const clean = blank(item);
    clean.ratings.forEach((each, position) => { for (const [kind] of data.scales) { const value = answer.ratings?.[position]?.[kind]; if (data.points.includes(value)) each[kind] = value; } });
    clean.errors.forEach((_, position) => {
      const counts = answer.errors?.[position];
      if (counts && typeof counts === "object") clean.errors[position] = Object.fromEntries(data.errors.map(([kind]) => [kind, counts[kind]]).filter(([, pair]) => Array.isArray(pair) && pair.length === 2 && pair.every(count => Number.isInteger(count) && count >= 0 && count <= 99)));
    });
    for (const [a, b] of pairsOf(item)) { const choice = answer.preferences?.[`${a}-${b}`]; if (item.parts.includes("preferences") && data.choices.includes(choice)) clean.preferences[`${a}-${b}`] = choice; }
    return clean;
  };
  byId("load").addEventListener("change", async () => {
    const file = byId("load").files[0];
    if (!file) return;
    let body = null;
    try { body = JSON.parse(await file.text()); } catch { /* said below */ }
    byId("load").value = "";
    if (!fits(body)) { say("This file holds no answers of this study; nothing was changed."); return; }
    if (Object.keys(given()).length && !window.confirm("Replace the answers given in this browser?")) return;
    saved = { reader: body.reader.slice(0, 40), items: {} };
    for (const item of items) if (body.items[item.item]) { saved.items[item.item] = sound(item, body.items[item.item]); saved.items[item.item].done = complete(item); }
    byId("reader").value = saved.reader;
    keep();
    show(at);
    say("Loaded.");
  });
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = ["SELECT", "TEXTAREA"].includes(event.target.tagName) || (event.target.tagName === "INPUT" && !["radio", "checkbox"].includes(event.target.type));
    const act = { n: () => show(at + 1), p: () => show(at - 1), u: unanswered, z: () => { const button = document.querySelector("[data-zoom]"); if (button) button.click(); } }[event.key];
    if (typing || !act) return;
    event.preventDefault();
    act();
  });
  const from = () => items.findIndex(item => item.item === location.hash.slice(1));
  window.addEventListener("hashchange", () => { if (from() >= 0) show(from()); });
  if (!saved.reader) byId("about").open = true;
  progress();
  show(Math.max(0, from()));
})();
