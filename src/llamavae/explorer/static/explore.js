// The page: what is selected, what the service says about it, and the state in the address.

import { ask, keepKey, KeyError, listen, unpack } from "./api.js";
import { COLOURS, LatentMap, OTHER } from "./map.js";
import { fill, make, marked } from "./words.js";

const $ = (id) => document.getElementById(id);
const FOUND = 20; // sentences shown by the search
const SLIDERS = 8; // shown at first
const MEASURED = 32; // coordinates that are measured at first
const POLL = 500; // milliseconds between requests while the service is starting
const PRIOR = 1.96; // half width of the central 95 % of the prior

const TABS = ["place", "path", "coordinates", "combine", "condition", "usage"];

/** What the service has: texts, labels, layouts. */
let space = null;
let map = null;

/** What is selected. A place is a sentence's index, a text, a code, or a place on a map. */
const state = {
  projection: "",
  colour: "",
  tab: "place",
  place: null,
  a: null,
  b: null,
  moves: {},
  terms: [],
};

/** What the service has answered, for the marks on the map and for exports. */
const shown = { spot: null, moved: null, path: null, strip: null, samples: null, combined: null };
const changes = new Map(); // change of the text by coordinate

// ------------------------------------------------------------------------------------- messages

function say(text) {
  $("status").textContent = text;
}

const running = {};

/** Runs one task of a kind at a time; a new one replaces the last. */
async function task(kind, message, work) {
  running[kind]?.abort();
  const controller = new AbortController();
  running[kind] = controller;
  $("error").textContent = "";
  say(message);
  try {
    await work(controller.signal);
    if (running[kind] === controller) say("");
  } catch (error) {
    if (error.name === "AbortError") return;
    say("");
    if (error instanceof KeyError) $("key-form").hidden = false;
    $("error").textContent = error.message;
  }
}

const number = (value, digits = 2) => value.toFixed(digits).replace("-", "−");

/** A place in words. */
function named(place) {
  if (typeof place === "number") return space.texts[place];
  if (typeof place === "string") return place;
  if (Array.isArray(place)) return "a code";
  return `the place ${number(place.x)}, ${number(place.y)}`;
}

/** Where a place is on the map. */
function located(place, spot) {
  if (typeof place === "number") {
    return [map.points[2 * place], map.points[2 * place + 1]];
  }
  if (place?.projection === state.projection) return [place.x, place.y];
  return spot.at[state.projection];
}

// ------------------------------------------------------------------------------------ the place

async function select(place, moves = {}, tab = true) {
  state.place = place;
  state.moves = moves;
  changes.clear();
  Object.assign(shown, { spot: null, moved: null, strip: null });
  if (tab && !["place", "coordinates"].includes(state.tab)) open("place");
  keep();
  await task("place", "Decoding the place …", async (signal) => {
    const [{ spots }, { neighbours }] = await Promise.all([
      ask("/explore/texts", { places: [place] }, signal),
      ask("/explore/neighbours", { place, k: 8 }, signal),
    ]);
    shown.spot = spots[0];
    showPlace(neighbours);
    marks();
    if (state.tab === "coordinates") await measure();
    if (Object.keys(state.moves).length) await move();
  });
}

function showPlace(neighbours) {
  const { place } = state;
  const { spot } = shown;
  $("place-empty").hidden = true;
  $("place-found").hidden = false;
  const given = typeof place === "number" || typeof place === "string";
  $("place-title").textContent = given ? "Sentence" : "Place without a sentence";
  const facts = given
    ? [["Sentence", named(place)], ["Reconstruction", marked(spot.text, named(place))]]
    : [["Text here", [spot.text || make("i", {}, "no text")]]];
  if (typeof place === "number") {
    for (const [column, { values, codes }] of Object.entries(space.labels)) {
      if (column === state.colour) facts.push([column, values[codes[place]]]);
    }
  }
  const layout = space.layouts[state.projection];
  if (!given && !layout.exact) facts.push(["Code", "mean of the nearest points' codes"]);
  const [x, y] = located(place, spot);
  facts.push(["On the map", `${number(x)}, ${number(y)}`]);
  fill(
    $("place-facts"),
    ...facts.flatMap(([name, value]) => [
      make("dt", {}, name),
      make("dd", {}, ...(Array.isArray(value) ? value : [value])),
    ]),
  );
  fill($("neighbours"), ...neighbours.map(({ index, text, cosine }) =>
    make("li", {}, choice(text, index), make("span", { class: "faint" }, number(cosine)))));
  $("moved").textContent = spot.text;
  fill($("sliders"));
  fill($("strip"));
  $("strip-title").hidden = true;
  $("sliders-more").hidden = true;
}

/** A button that selects a place. */
function choice(text, place) {
  return make("button", { type: "button", class: "choice", onclick: async () => {
    await select(place);
    if (shown.spot) map.reveal(located(place, shown.spot));
  } }, text);
}

function marks() {
  const at = (spots) => (spots ?? []).map((spot) => spot.at[state.projection]);
  const { spot, moved } = shown;
  const selected = moved?.at[state.projection] ?? (spot && located(state.place, spot));
  const samples = [...at(shown.samples), ...at(shown.combined && [shown.combined])];
  map.mark({ selected, path: at(shown.path?.spots), samples });
}

// ------------------------------------------------------------------------------------- the path

function showEnds() {
  const end = (place) => (place === null ? make("i", {}, "not chosen") : named(place));
  fill($("path-ends"), make("dt", {}, "Start"), make("dd", {}, end(state.a)),
    make("dt", {}, "End"), make("dd", {}, end(state.b)));
  $("path-run").disabled = $("path-swap").disabled = state.a === null || state.b === null;
}

async function walk() {
  showEnds();
  keep();
  if (state.a === null || state.b === null) return;
  const body = { a: state.a, b: state.b, steps: Number($("path-steps").value) };
  await task("path", "Decoding the path …", async (signal) => {
    shown.path = await ask("/explore/path", body, signal);
    const { spots, smoothness, control } = shown.path;
    $("path-scores").textContent =
      `Smoothness ${number(smoothness)}, with the inner texts in random order ${number(control)} ` +
      "(0 to 1, angle between sentence vectors).";
    fill($("path-texts"), ...spots.map(({ text }, i) =>
      make("li", {}, ...(i ? marked(text, spots[i - 1].text) : [text]))));
    marks();
  });
}

function ends(a, b) {
  [state.a, state.b] = [a, b];
  open("path");
  walk();
}

// ------------------------------------------------------------------------------ the coordinates

/** The code of the place with the sliders' values. */
function code() {
  return shown.spot.z.map((value, dim) => state.moves[dim] ?? value);
}

async function measure(count = MEASURED) {
  if (!shown.spot) return;
  changes.clear();
  await task("coordinates", "Measuring the coordinates …", async (signal) => {
    const body = { place: code(), count: Math.min(count, space.dim) };
    await listen("/explore/coordinates", body, signal, ({ dim, change }) => {
      changes.set(dim, change);
      if (changes.size % 8) return;
      say(`Measured ${changes.size} of ${body.count} coordinates …`);
      showSliders(SLIDERS); // stays if the rest takes too long
    });
    showSliders(SLIDERS);
    const [first] = sorted();
    if (first !== undefined) await showStrip(first);
  });
}

const sorted = () => [...changes.keys()].sort((a, b) => changes.get(b) - changes.get(a));

function showSliders(count) {
  const z = code();
  const dims = sorted();
  fill($("sliders"), ...dims.slice(0, count).map((dim) => {
    const value = make("output", { for: `slider-${dim}` }, number(z[dim]));
    const slide = (event) => {
      state.moves[dim] = Number(event.target.value);
      value.textContent = number(state.moves[dim]);
      keep();
      clearTimeout(slide.timer);
      slide.timer = setTimeout(move, 150);
    };
    const bound = Math.max(PRIOR, Math.abs(z[dim])).toFixed(2);
    return make("li", {},
      make("label", { for: `slider-${dim}` }, `z ${dim}`),
      make("input", { id: `slider-${dim}`, type: "range", min: -bound, max: bound, step: 0.01,
        value: z[dim], oninput: slide }),
      value,
      make("span", { class: "faint" }, `changes ${Math.round(100 * changes.get(dim))} %`),
      make("button", { type: "button", "aria-label": `Strip of coordinate ${dim}`,
        onclick: () => task("strip", "Decoding the strip …", () => showStrip(dim)) }, "Strip"));
  }));
  $("sliders-more").hidden = dims.length <= count;
}

async function move() {
  if (!shown.spot) return;
  await task("move", "Decoding the moved code …", async (signal) => {
    const { spots } = await ask("/explore/texts", { places: [code()] }, signal);
    [shown.moved] = spots;
    fill($("moved"), ...marked(spots[0].text, shown.spot.text));
    marks();
  });
}

async function showStrip(dim) {
  const z = code();
  const { spots } = await ask("/explore/strip", { place: z, dim, steps: 9 });
  const base = (shown.moved ?? shown.spot).text;
  shown.strip = { dim, spots };
  $("strip-title").textContent = `Coordinate ${dim}: from −${PRIOR} to ${PRIOR}`;
  $("strip-title").hidden = false;
  fill($("strip"), ...spots.map((spot) => make("li", {},
    make("span", { class: "faint value" }, number(spot.z[dim])),
    make("span", {}, ...marked(spot.text, base)))));
}

// ---------------------------------------------------------------------------------- combination

function showTerms() {
  fill($("terms"), ...state.terms.map((term, i) => make("li", {},
    make("input", { type: "number", step: "any", value: term.factor,
      "aria-label": `Factor of ${named(term.place)}`,
      onchange: (event) => {
        term.factor = Number(event.target.value);
        keep();
      } }),
    choice(named(term.place), term.place),
    make("button", { type: "button", class: "end", "aria-label": `Remove ${named(term.place)}`, onclick: () => {
      state.terms.splice(i, 1);
      showTerms();
      keep();
    } }, "×"))));
  for (const id of ["average", "sum", "clear"]) {
    $(`combine-${id}`).disabled = !state.terms.length;
  }
}

async function combine(sum) {
  const places = state.terms.map((term) => term.place);
  const weights = sum ? state.terms.map((term) => term.factor) : null;
  await task("combine", "Decoding the combination …", async (signal) => {
    const { spots } = await ask("/explore/combine", { places, weights }, signal);
    [shown.combined] = spots;
    fill($("combined"), choice(spots[0].text || "no text", spots[0].z));
    marks();
  });
}

// ------------------------------------------------------------------------------------ condition

async function sample() {
  const body = {
    condition: $("word").value,
    n: Number($("word-n").value),
    spread: Number($("word-spread").value),
    seed: Number($("word-seed").value),
  };
  keep();
  await task("condition", "Sampling …", async (signal) => {
    shown.samples = (await ask("/explore/condition", body, signal)).spots;
    fill($("samples"), ...shown.samples.map((spot) =>
      make("li", {}, choice(spot.text || "no text", spot.z))));
    marks();
  });
}

// ----------------------------------------------------------------------------------- dimensions

async function showUsage() {
  const { kl, deviation, active } = await ask("/explore/usage");
  const dims = kl.map((_, i) => i).sort((a, b) => kl[b] - kl[a]);
  const total = kl.reduce((sum, value) => sum + value, 0);
  const count = active.filter(Boolean).length;
  const facts = `${count} of ${kl.length} dimensions are active. The KL divergence is ` +
    `${number(total, 1)} nats in total.`;
  $("usage-facts").textContent = facts;
  $("bars").setAttribute("aria-label", facts);
  const svg = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const picture = svg("svg", { viewBox: `0 0 ${dims.length} 40`, preserveAspectRatio: "none" });
  picture.append(...dims.map((dim, i) => {
    const height = Math.max(0.4, (40 * kl[dim]) / Math.max(...kl));
    const kind = active[dim] ? "active" : "idle";
    return svg("rect", { x: i + 0.1, y: 40 - height, width: 0.8, height, class: kind });
  }));
  fill($("bars"), picture);
  const row = (tag, cells) => make("tr", {}, ...cells.map((each) => make(tag, {}, each)));
  fill($("usage-table"),
    make("thead", {}, row("th", ["Dimension", "KL", "Deviation", "Active"])),
    make("tbody", {}, ...dims.map((dim) => row("td",
      [String(dim), number(kl[dim], 3), number(deviation[dim], 3), active[dim] ? "yes" : "no"]))));
}

// --------------------------------------------------------------------------------- map and tabs

function showMap() {
  const { points } = space.layouts[state.projection];
  const label = space.labels[state.colour];
  const count = COLOURS.length;
  const shown = label && Uint8Array.from(label.codes, (c) => Math.min(c, count));
  map.show(points, shown, label ? [...COLOURS, OTHER] : [COLOURS[0], COLOURS[0]]);
  const entry = (colour, text) => {
    const swatch = make("span", { class: "swatch" });
    swatch.style.background = `var(${colour})`;
    return make("li", {}, swatch, text);
  };
  const values = label ? label.values : [];
  fill($("legend"), ...values.slice(0, count).map((value, i) => entry(COLOURS[i], value)),
    ...(values.length > count ? [entry(OTHER, `${values.length - count} others`)] : []));
  $("legend").hidden = !values.length;
}

function open(tab) {
  state.tab = TABS.includes(tab) ? tab : "place";
  for (const name of TABS) {
    const chosen = name === state.tab;
    $(name).hidden = !chosen;
    $(`tab-${name}`).setAttribute("aria-selected", String(chosen));
    $(`tab-${name}`).tabIndex = chosen ? 0 : -1;
  }
  keep();
}

function hover(index, pixel) {
  const note = $("hover");
  note.hidden = index === null;
  if (index === null) return;
  note.textContent = space.texts[index];
  const [x, y] = pixel;
  const left = x > map.width / 2;
  note.style.left = left ? "auto" : `${x + 14}px`;
  note.style.right = left ? `${map.width - x + 14}px` : "auto";
  note.style.top = `${Math.max(4, y - 16)}px`;
}

function search() {
  const words = $("search").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const found = [];
  let count = 0;
  if (words.length) {
    space.texts.forEach((text, i) => {
      const lower = text.toLowerCase();
      if (!words.every((word) => lower.includes(word))) return;
      count++;
      if (found.length < FOUND) found.push(i);
    });
  }
  const more = count > FOUND ? `, the first ${FOUND} of them below` : "";
  $("found").textContent = words.length ? `${count.toLocaleString("en")} found${more}` : "";
  fill($("results"), ...found.map((i) => make("li", {}, choice(space.texts[i], i))));
}

// ---------------------------------------------------------------------------- state and exports

const rounded = (place) =>
  JSON.stringify(place, (_, value) => (typeof value === "number" ? +value.toFixed(4) : value));

/** Put the state into the address, which is then a link to it. */
function keep() {
  if (!space) return;
  clearTimeout(keep.timer);
  keep.timer = setTimeout(() => {
    const { x, y, zoom } = map.view;
    const found = { projection: state.projection, colour: state.colour, tab: state.tab };
    found.view = rounded([x, y, zoom]);
    for (const name of ["place", "a", "b"]) {
      if (state[name] !== null) found[name] = rounded(state[name]);
    }
    found.steps = $("path-steps").value;
    if (Object.keys(state.moves).length) found.moves = rounded(state.moves);
    if (state.terms.length) found.terms = rounded(state.terms);
    if ($("word").value) {
      found.word = rounded(["word", "word-n", "word-spread", "word-seed"].map((id) => $(id).value));
    }
    history.replaceState(null, "", `#${new URLSearchParams(found)}`);
  }, 100);
}

/** A place, or null for something else. */
function valid(place) {
  const finite = (values) => values.every(Number.isFinite);
  if (typeof place === "string") return place || null;
  if (typeof place === "number") return Number.isInteger(place) && place in space.texts ? place : null;
  if (Array.isArray(place)) return place.length === space.dim && finite(place) ? place : null;
  return place && place.projection in space.layouts && finite([place.x, place.y]) ? place : null;
}

/** The state of an address; what cannot be read is ignored. */
function restore() {
  const given = new URLSearchParams(location.hash.slice(1));
  const read = (name) => {
    try {
      return JSON.parse(given.get(name));
    } catch {
      return null;
    }
  };
  if (given.get("projection") in space.layouts) state.projection = given.get("projection");
  if (given.get("colour") === "" || given.get("colour") in space.labels) {
    state.colour = given.get("colour");
  }
  const view = read("view");
  if (Array.isArray(view) && view.every(Number.isFinite)) {
    const [x = 0, y = 0, zoom = 1] = view;
    map.view = { x, y, zoom };
  }
  const place = valid(read("place"));
  [state.a, state.b] = [valid(read("a")), valid(read("b"))];
  if (given.get("steps")) $("path-steps").value = given.get("steps");
  const terms = read("terms");
  state.terms = (Array.isArray(terms) ? terms : []).filter(
    (term) => valid(term?.place) !== null && Number.isFinite(term.factor),
  );
  const moves = Object.entries(read("moves") ?? {}).filter(
    ([dim, value]) => /^\d+$/.test(dim) && dim < space.dim && Number.isFinite(value),
  );
  const word = read("word");
  if (Array.isArray(word)) {
    ["word", "word-n", "word-spread", "word-seed"].forEach((id, i) => ($(id).value = word[i]));
  }
  return { tab: given.get("tab"), place, moves: Object.fromEntries(moves) };
}

function download(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** What is seen: the sentences in the view, and everything that was decoded. */
function lines() {
  const rows = [];
  const { points } = map;
  const labels = Object.entries(space.labels);
  for (let i = 0; i < space.texts.length; i++) {
    const [x, y] = [points[2 * i], points[2 * i + 1]];
    const [px, py] = map.toPixel([x, y]);
    if (px < 0 || py < 0 || px > map.width || py > map.height) continue;
    const own = Object.fromEntries(labels.map(([name, l]) => [name, l.values[l.codes[i]]]));
    rows.push({ kind: "sentence", index: i, text: space.texts[i], x, y, labels: own });
  }
  const add = (kind, spots, more = {}) => {
    for (const [i, { text, z, at }] of spots.entries()) {
      const [x, y] = at[state.projection];
      rows.push({ kind, index: i, text, x, y, z, ...more });
    }
  };
  if (shown.spot) add("place", [shown.spot], { of: state.place });
  if (shown.moved) add("moved", [shown.moved], { moves: state.moves });
  if (shown.path) {
    const { spots, smoothness, control } = shown.path;
    add("path", spots, { smoothness, control });
  }
  if (shown.strip) add("strip", shown.strip.spots, { dim: shown.strip.dim });
  if (shown.combined) add("combination", [shown.combined], { terms: state.terms });
  if (shown.samples) add("sample", shown.samples, { condition: $("word").value });
  return rows.map((row) => JSON.stringify(row) + "\n").join("");
}

// -------------------------------------------------------------------------------------- the page

function connect() {
  const choose = (id, names, empty) => {
    const options = names.map((name) => make("option", { value: name }, name.toUpperCase()));
    fill($(id), ...options);
    if (empty) {
      fill($(id), make("option", { value: "" }, empty),
        ...names.map((name) => make("option", { value: name }, name)));
    }
  };
  choose("projection", Object.keys(space.layouts));
  choose("colour", Object.keys(space.labels), "one colour");
  $("projection").value = state.projection;
  $("colour").value = state.colour;
  for (const id of ["projection", "colour"]) {
    $(id).addEventListener("change", () => {
      state[id] = $(id).value;
      showMap();
      marks();
      keep();
    });
  }
  $("path-mode").addEventListener("change", (event) => (map.pathMode = event.target.checked));
  $("zoom-in").addEventListener("click", () => map.zoom(1.5));
  $("zoom-out").addEventListener("click", () => map.zoom(1 / 1.5));
  $("zoom-all").addEventListener("click", () => map.setView({ x: 0, y: 0, zoom: 1 }));
  $("search").addEventListener("input", search);
  $("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("search").value.trim();
    if (text) select(text);
  });
  for (const name of TABS) $(`tab-${name}`).addEventListener("click", () => show(name));
  $("tabs").addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const next = TABS[(TABS.indexOf(state.tab) + by + TABS.length) % TABS.length];
    show(next);
    $(`tab-${next}`).focus();
  });
  $("to-start").addEventListener("click", () => ends(state.place, state.b));
  $("to-end").addEventListener("click", () => ends(state.a, state.place));
  $("to-combine").addEventListener("click", () => {
    state.terms.push({ place: state.place, factor: 1 });
    showTerms();
    open("combine");
  });
  $("path-run").addEventListener("click", walk);
  $("path-swap").addEventListener("click", () => ends(state.b, state.a));
  $("coordinates-run").addEventListener("click", () => measure());
  $("coordinates-all").addEventListener("click", () => measure(space.dim));
  $("coordinates-reset").addEventListener("click", () => {
    state.moves = {};
    shown.moved = null;
    if (shown.spot) $("moved").textContent = shown.spot.text;
    if (changes.size) showSliders(SLIDERS);
    marks();
    keep();
  });
  $("sliders-more").addEventListener("click", () => showSliders(space.dim));
  $("combine-average").addEventListener("click", () => combine(false));
  $("combine-sum").addEventListener("click", () => combine(true));
  $("combine-clear").addEventListener("click", () => {
    state.terms = [];
    shown.combined = null;
    fill($("combined"));
    showTerms();
    marks();
    keep();
  });
  $("condition-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sample();
  });
  $("export-lines").addEventListener("click", () =>
    download("explore.jsonl", new Blob([lines()], { type: "application/jsonl" })));
  $("export-image").addEventListener("click", async () =>
    download("explore.png", await map.image()));
  $("link").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      say("The link is copied.");
    } catch {
      say("The address of this page is the link.");
    }
  });
}

/** Open a tab, and start what it shows. */
function show(tab) {
  open(tab);
  if (tab === "coordinates" && shown.spot && !changes.size) measure();
}

/** Waits until the service has the map. */
async function started() {
  for (;;) {
    const { ready, stage } = await ask("/explore/progress");
    $("key-form").hidden = true;
    if (ready) return;
    say(`The service is starting: ${stage || "loading the model"} …`);
    await new Promise((done) => setTimeout(done, POLL));
  }
}

async function start() {
  await task("start", "Loading the map …", async () => {
    await started();
    const found = await ask("/explore/map");
    for (const layout of Object.values(found.layouts)) {
      layout.points = unpack(layout.points, Float32Array);
    }
    for (const label of Object.values(found.labels)) label.codes = unpack(label.codes, Int32Array);
    space = found;
    [state.projection] = Object.keys(space.layouts);
    state.colour = space.colour ?? "";
    $("model").textContent = space.model;
    $("facts").textContent =
      `${space.texts.length.toLocaleString("en")} sentences in ${space.dim} dimensions`;
    map = new LatentMap($("map"), {
      hover,
      point: (index) => select(index),
      place: ([x, y]) => select({ projection: state.projection, x, y }),
      path: (...pair) =>
        ends(...pair.map((end) =>
          Array.isArray(end) ? { projection: state.projection, x: end[0], y: end[1] } : end)),
      view: keep,
    });
    globalThis.explorer = map; // for tests and the console
    const { tab, place, moves } = restore();
    connect();
    showMap();
    $("condition-none").hidden = space.definitions;
    $("condition-form").hidden = !space.definitions;
    open(tab);
    showEnds();
    showTerms();
    await showUsage();
    document.documentElement.dataset.ready = "true";
    if (place !== null) await select(place, moves, false);
    if (state.a !== null && state.b !== null) await walk();
    if (space.definitions && $("word").value) await sample();
  });
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey($("key").value);
  start();
});
start();
