"use strict";
// Live parts of a page, a photo's answers, corrections of labels, and the movie of AutoLR's trials. No library.

const POLL = 2000;
const byId = (name) => document.getElementById(name);

async function ask(place, options = {}) {
  try {
    const answer = await fetch(place, { credentials: "same-origin", ...options });
    byId("lost").hidden = true;
    return answer;
  } catch (error) {
    byId("lost").hidden = false;
    throw error;
  }
}

// What changes while runs go on: asked for again and again, and exchanged only where it is another text.
function live(place, take) {
  let tag = null;
  const again = async () => {
    if (!document.hidden) {
      try {
        const answer = await ask(place, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
        if (answer.status === 200) {
          tag = answer.headers.get("ETag");
          take(await answer.text());
        }
      } catch { /* said in the page */ }
    }
    setTimeout(again, POLL);
  };
  again();
}

for (const part of document.querySelectorAll("[data-live]")) {
  live(part.dataset.live, (text) => { part.innerHTML = text; filter(); });
}

function filter() {
  const wanted = (byId("filter")?.value ?? "").toLowerCase();
  for (const row of document.querySelectorAll("[data-text]")) {
    row.hidden = !row.dataset.text.toLowerCase().includes(wanted);
  }
}
byId("filter")?.addEventListener("input", filter);

// --- a photo

const form = byId("photo");
if (form) {
  const input = form.querySelector("input"), select = form.querySelector("select"), drop = form.querySelector(".drop");
  let file = null, number = 0;

  const show = async (parts) => {
    if (!file) return;
    const request = ++number;
    if (file.size > Number(form.dataset.most)) {
      byId("answers").textContent = `The file has more than ${Math.round(form.dataset.most / 1e6)} MB.`;
      return;
    }
    for (const part of parts) {
      let place = byId(`answer-${part}`);
      if (!place) {
        place = document.createElement("section");
        place.id = `answer-${part}`;
        byId("answers").append(place);
      }
      if (part !== "map" || parts.length > 1) place.textContent = "";
      const waiting = document.createElement("p");
      waiting.className = "going";
      waiting.textContent = { labels: "Looking at the photo…", map: "Looking where it looks…",
        neighbours: "Comparing with the training images… (the first time takes longest)" }[part];
      place.append(waiting);
      const of = select && select.value !== "" ? `?class=${select.value}` : "";
      const answer = await ask(`${form.dataset.to}/${part}${part === "map" ? of : ""}`,
        { method: "POST", body: file, headers: { "X-Finetune-Jax": "1", "Content-Type": "application/octet-stream",
          "X-File-Name": encodeURIComponent(file.name || "photo") } });
      const text = await answer.text();
      if (request !== number) return;
      place.innerHTML = text;
      if (part === "labels" && !answer.ok) return;
    }
  };
  const take = (photo) => {
    if (!photo) return;
    file = photo;
    byId("answers").textContent = "";
    show(["labels", "map", "neighbours"]);
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  input.addEventListener("change", () => take(input.files[0]));
  select?.addEventListener("change", () => show(["map"]));
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
}

// --- mistakes

const split = byId("split");
if (split) {
  const part = byId("mistakes"), button = byId("download");
  const known = new Set(Array.from(byId("classes").options, (option) => option.value));
  let chosen = new Map(), asked = 0;

  const count = () => {
    button.disabled = chosen.size === 0;
    button.textContent = `Download ${chosen.size} correction${chosen.size === 1 ? "" : "s"}`;
  };
  const mark = (card) => {
    const value = card.querySelector("input").value, number = Number(card.dataset.number);
    if (known.has(value) && value !== card.dataset.label) chosen.set(number, value);
    else chosen.delete(number);
    card.classList.toggle("changed", chosen.has(number));
    count();
  };
  const load = async (page) => {
    const request = ++asked;
    part.innerHTML = '<p class="going">Looking at the images…</p>';
    const answer = await ask(`${split.dataset.list}?split=${encodeURIComponent(split.value)}&page=${page}`);
    const text = await answer.text();
    if (request !== asked) return;
    part.innerHTML = text;
    for (const card of part.querySelectorAll("[data-number]")) {
      const before = chosen.get(Number(card.dataset.number));
      if (before !== undefined) card.querySelector("input").value = before;
      mark(card);
    }
  };
  part.addEventListener("input", (event) => mark(event.target.closest("[data-number]")));
  part.addEventListener("click", (event) => {
    const { set, page } = event.target.dataset;
    if (page !== undefined) load(page);
    if (set === undefined) return;
    const card = event.target.closest("[data-number]"), field = card.querySelector("input");
    field.value = field.value === set ? card.dataset.label : set;
    mark(card);
  });
  split.addEventListener("change", () => { chosen = new Map(); count(); load(0); });
  button.addEventListener("click", async () => {
    const answer = await ask(`${button.dataset.to}?split=${encodeURIComponent(split.value)}`,
      { method: "POST", headers: { "X-Finetune-Jax": "1", "Content-Type": "application/json" },
        body: JSON.stringify(Object.fromEntries(chosen)) });
    if (!answer.ok) { part.innerHTML = await answer.text(); return; }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `corrections-${split.value}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  count();
  load(0);
}

// --- the movie of the trials

const movie = byId("trials");
if (movie) {
  const svg = byId("movie"), slider = byId("frame"), NAME = "http://www.w3.org/2000/svg";
  let data = { blocks: [], frames: [] }, now = 0, playing = null;
  const LEFT = 70, RIGHT = 710, PANELS = [["variations", "moved per weight", 24, 200], ["rates", "learning rate", 250, 390]];

  const make = (name, values, text = "") => {
    const element = document.createElementNS(NAME, name);
    for (const [key, value] of Object.entries(values)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  };
  // One scale for all trials, logarithmic where they span more than a linear one can show.
  const scale = (names, low, high) => {
    const values = data.frames.flatMap((frame) => names.flatMap((name) => frame[name])).filter((v) => v !== null && v > 0);
    const most = Math.max(...values), least = Math.min(...values);
    if (!values.length) return { place: () => high, ticks: [] };
    if (most > 30 * least) {
      const top = Math.log10(most) + 0.1, bottom = Math.log10(least) - 0.3;
      const place = (v) => v > 0 ? high - (high - low) * (Math.log10(v) - bottom) / (top - bottom) : high;
      const ticks = [];
      for (let power = Math.ceil(bottom); power <= top; power++) ticks.push(10 ** power);
      return { place, ticks };
    }
    return { place: (v) => high - (high - low) * v / (1.05 * most), ticks: [0, most / 2, most] };
  };
  const drawn = new Map();
  const draw = () => {
    svg.replaceChildren();
    drawn.clear();
    const width = (RIGHT - LEFT) / Math.max(1, data.blocks.length);
    for (const [name, title, low, high] of PANELS) {
      const { place, ticks } = scale(name === "variations" ? ["variations", "targets"] : [name], low, high);
      svg.append(make("text", { x: LEFT, y: low - 8 }, title));
      for (const tick of ticks) {
        svg.append(make("line", { x1: LEFT, x2: RIGHT, y1: place(tick), y2: place(tick), class: "axis" }));
        svg.append(make("text", { x: LEFT - 6, y: place(tick) + 4, "text-anchor": "end" }, Number(tick.toPrecision(2)).toString()));
      }
      data.blocks.forEach((block, index) => {
        const bar = make("rect", { x: LEFT + (index + 0.15) * width, width: 0.7 * width, y: high, height: 0 });
        const target = make("line", { x1: LEFT + index * width + 1, x2: LEFT + (index + 1) * width - 1, class: "target" });
        svg.append(bar, target);
        drawn.set(`${name}/${index}`, { bar, target, place, high });
        if (name === "rates" && (data.blocks.length < 20 || index % 4 === 0)) {
          svg.append(make("text", { x: LEFT + (index + 0.5) * width, y: 408, "text-anchor": "middle" }, block.replace("block_", "")));
        }
      });
    }
    byId("strip").replaceChildren(...data.frames.map((frame, index) => {
      const mark = document.createElement("i");
      mark.className = frame.accepted ? "accepted" : "";
      mark.title = `epoch ${frame.epoch}, trial ${frame.trial}`;
      mark.addEventListener("click", () => { stop(); show(index); });
      return mark;
    }));
    slider.max = Math.max(0, data.frames.length - 1);
  };
  const show = (index) => {
    if (!data.frames.length) return;
    now = Math.max(0, Math.min(index, data.frames.length - 1));
    const frame = data.frames[now];
    slider.value = now;
    for (const [key, { bar, target, place, high }] of drawn) {
      const [name, number] = key.split("/"), value = frame[name][number];
      const top = value === null ? high : place(value);
      bar.style.y = `${top}px`;
      bar.style.height = `${Math.max(0, high - top)}px`;
      bar.setAttribute("class", frame.accepted ? "" : "no");
      // Targets are what a trial was rejected for not reaching: those that the next one aims at.
      const wanted = name === "variations" ? frame.targets[number] : null;
      target.setAttribute("visibility", wanted === null ? "hidden" : "visible");
      if (wanted !== null) { target.setAttribute("y1", place(wanted)); target.setAttribute("y2", place(wanted)); }
    }
    const of = data.frames.filter((other) => other.epoch === frame.epoch).length;
    const quality = frame.quality === null ? "not finite" : frame.quality.toFixed(3);
    byId("told").textContent = `Epoch ${frame.epoch}, trial ${frame.trial} of ${of}: ${frame.accepted ? "accepted" : "rejected"}` +
      `; order ${quality}, wanted ${frame.threshold.toFixed(3)}`;
    [...byId("strip").children].forEach((mark, place) => mark.classList.toggle("now", place === now));
  };
  const stop = () => {
    clearInterval(playing);
    playing = null;
    byId("play").textContent = "Play";
  };
  byId("play").addEventListener("click", () => {
    if (playing !== null) { stop(); return; }
    if (now >= data.frames.length - 1) show(0);
    byId("play").textContent = "Stop";
    playing = setInterval(() => now >= data.frames.length - 1 ? stop() : show(now + 1), 900);
  });
  byId("back").addEventListener("click", () => { stop(); show(now - 1); });
  byId("on").addEventListener("click", () => { stop(); show(now + 1); });
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  live(movie.dataset.from, (text) => {
    const atEnd = now >= data.frames.length - 1 && data.frames.length > 0;
    data = JSON.parse(text);
    draw();
    show(atEnd && playing === null ? data.frames.length - 1 : now);
  });
}
