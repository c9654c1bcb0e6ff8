"use strict";
// What the explorer and the reader study share. Every text of a report goes in as a text node, never as HTML.
const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const byId = id => document.getElementById(id);

// Control characters, marks of direction and halves of characters: seen as their code point, they change nothing around them.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const codeOf = char => "U+" + char.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
const shown = text => {
  const parts = [];
  let from = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (match.index > from) parts.push(text.slice(from, match.index));
    parts.push(make("span", { class: "code" }, codeOf(match[0])));
    from = match.index + 1;
  }
  if (from < text.length) parts.push(text.slice(from));
  return parts;
};
const plain = text => text.replace(UNSEEN, codeOf);

const LONG = 20000; // characters of a report that are drawn before somebody asks for all of it
const report = (text, pieces = [[0, text.length, ""]]) => {
  const box = make("p", { class: "said", dir: "auto" });
  if (!text) { box.append(make("span", { class: "empty" }, "no text")); return box; }
  const draw = limit => {
    for (const [from, to, kind, title] of pieces) {
      if (from >= limit) break;
      const part = shown(text.slice(from, Math.min(to, limit)));
      if (kind) box.append(make(kind === "apart" ? "span" : "mark", { class: kind, title: title || null }, ...part));
      else box.append(...part);
    }
  };
  draw(LONG);
  if (text.length <= LONG) return box;
  const all = make("button", { type: "button" }, `Show all ${text.length.toLocaleString("en")} characters`);
  all.addEventListener("click", () => { box.replaceChildren(); draw(text.length); });
  box.classList.add("long");
  box.tabIndex = 0;
  box.append("… ", all);
  return box;
};

// ---- words of two texts that are not in their longest common sequence
const MOST_WORDS = 1500; // of either text: the table of the alignment grows with the product
const words = text => [...text.matchAll(/\S+/g)].map(match => ({ at: match.index, end: match.index + match[0].length,
  word: match[0].toLowerCase().replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "") || match[0] }));
const apart = (one, two) => {
  const a = words(one), b = words(two);
  if (a.length > MOST_WORDS || b.length > MOST_WORDS) return null;
  const width = b.length + 1, table = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      table[i * width + j] = a[i].word === b[j].word ? table[(i + 1) * width + j + 1] + 1
        : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
  const only = [[], []];
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i].word === b[j].word) { i++; j++; }
    else if (j >= b.length || (i < a.length && table[(i + 1) * width + j] >= table[i * width + j + 1])) only[0].push(a[i++]);
    else only[1].push(b[j++]);
  }
  return only.map(some => some.map(each => [each.at, each.end, "apart", "not in the other text"]));
};
// Marks may overlap (entities within entities): the text is cut at every edge, the first mark that covers a piece wins.
const cut = (text, marks) => {
  const edges = [...new Set([0, text.length, ...marks.flatMap(([from, to]) => [from, to])])].sort((x, y) => x - y);
  return edges.slice(0, -1).map((from, at) => {
    const mark = marks.find(each => each[0] <= from && each[1] >= edges[at + 1]);
    return [from, edges[at + 1], mark ? mark[2] : "", mark ? mark[3] : ""];
  });
};

// ---- colours of the page, remembered where the browser lets it
const kept = { get: name => { try { return localStorage.getItem(name); } catch { return null; } },
  set: (name, value) => { try { localStorage.setItem(name, value); return true; } catch { return false; } },
  remove: name => { try { localStorage.removeItem(name); } catch { /* there was nothing to forget */ } } };
const setTheme = value => { document.documentElement.dataset.theme = value; byId("theme").value = value; };
if (["light", "dark"].includes(kept.get("cxrbench-theme"))) setTheme(kept.get("cxrbench-theme"));
byId("theme").addEventListener("change", event => { setTheme(event.target.value); kept.set("cxrbench-theme", event.target.value); });

// ---- images stand in blocks behind the script, and a block is read when one of its images comes into sight
const imageBlocks = new Map();
const imageOf = (number, block) => {
  const at = Math.floor(number / block);
  if (!imageBlocks.has(at)) {
    const element = byId(`images-${at}`);
    if (!element) return null; // the page is still being read
    imageBlocks.set(at, JSON.parse(element.textContent));
  }
  return "data:image/webp;base64," + imageBlocks.get(at)[number % block];
};
let zoomed = 100;
const setZoom = percent => { zoomed = Math.min(800, Math.max(25, percent)); byId("zoom-image").style.width = `${zoomed}%`; };
const enlarge = (source, name) => {
  byId("zoom-image").src = source;
  byId("zoom-image").alt = name;
  byId("zoom-name").textContent = name;
  byId("zoom").showModal();
  const room = document.querySelector(".zoomroom"), image = byId("zoom-image");
  const fit = () => setZoom(100 * Math.min(1, room.clientHeight / (image.naturalHeight / image.naturalWidth * room.clientWidth)));
  if (image.complete) fit(); else image.addEventListener("load", fit, { once: true });
};
byId("zoom-in").addEventListener("click", () => setZoom(zoomed * 1.5));
byId("zoom-out").addEventListener("click", () => setZoom(zoomed / 1.5));
byId("zoom-close").addEventListener("click", () => byId("zoom").close());
byId("zoom").addEventListener("keydown", event => {
  if (event.key === "+" || event.key === "=") setZoom(zoomed * 1.5);
  if (event.key === "-") setZoom(zoomed / 1.5);
});
const pictures = (images, block) => {
  const box = make("div", { class: "pictures" });
  images.forEach(([view, place], at) => {
    const name = `image ${at + 1}${view ? `, ${plain(view)}` : ""}`;
    if (typeof place === "string") { box.append(make("p", { class: "outcome" }, `${name}: ${place}`)); return; }
    const button = make("button", { type: "button", "aria-label": `Enlarge ${name}`, "data-zoom": "" });
    const source = imageOf(place, block);
    const fill = from => { button.replaceChildren(make("img", { src: from, alt: name, decoding: "async" })); button.addEventListener("click", () => enlarge(from, name)); };
    if (source) fill(source); else document.addEventListener("DOMContentLoaded", () => fill(imageOf(place, block)), { once: true });
    box.append(make("figure", {}, button, make("figcaption", {}, name)));
  });
  return box;
};
