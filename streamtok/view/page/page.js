// The page of `streamtok view`: one card per stream, filled from a WebSocket. See streamtok/view/pictures.py (pack_group).
"use strict";

const $ = (id) => document.getElementById(id);
const STAGES = { wait: "#9a9aa5", encode: "#f0a13c", travel: "#5aa9e6", decode: "#8e7cc3" }; // ms, in this order
const WINDOW_S = 60;
const MOST_BEHIND = 256; // groups that wait to be decoded here
const decodeHere = $("here");
const cards = new Map();
let socket = null;
let state = { live: true, streams: [], nodes: [] };
let dragging = false;

// A step that `streamtok export-model --direction decode` has written, with its state, in WebAssembly.
class Decoder {
  static async load(file) {
    const ort = await import("./ort.wasm.min.mjs");
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = new URL("./", location.href).href.split("?")[0];
    const facts = await (await fetch(`${file}.json`)).json();
    return new Decoder(ort, facts, await ort.InferenceSession.create(`./${file}`));
  }

  constructor(ort, facts, session) {
    Object.assign(this, { ort, facts, session, last: -1, ready: false });
    this.state = {};
    for (const { name, dtype, shape } of facts.inputs.slice(2)) {
      const size = shape.reduce((a, b) => a * b, 1);
      this.state[name] = new ort.Tensor(dtype, dtype === "int64" ? new BigInt64Array(size) : new Float32Array(size), shape);
    }
  }

  // The last picture of a group as ImageData, nothing until a keyframe or after a group that did not come.
  async step(head, tokens) {
    this.ready = head.keyframe || (this.ready && head.decodable && head.seq === this.last + 1);
    this.last = head.seq;
    if (!this.ready) return null;
    const { ort, facts } = this;
    const feeds = { ...this.state, tokens: new ort.Tensor("int32", Int32Array.from(tokens), facts.inputs[0].shape) };
    feeds.keyframe = new ort.Tensor("bool", Uint8Array.of(head.keyframe ? 1 : 0), [1]);
    const out = await this.session.run(feeds);
    for (const { name } of facts.inputs.slice(2)) this.state[name] = out[name === "count" ? "count_out" : name.replace(/^in\./, "out.")];
    const [height, width] = facts.image_size;
    const image = new ImageData(width, height);
    const pixels = out.frames.data.subarray(-3 * width * height);
    for (let i = 0; i < width * height; i++) image.data.set([pixels[3 * i], pixels[3 * i + 1], pixels[3 * i + 2], 255], 4 * i);
    return image;
  }
}

class Card {
  constructor(id) {
    this.id = id;
    this.root = $("card").content.firstElementChild.cloneNode(true);
    this.root.dataset.stream = id;
    $("cards").append(this.root);
    this.arrivals = []; // seconds of the last groups
    this.series = [[], ...Object.keys(STAGES).map(() => []), []];
    this.numbers = {};
    this.began = performance.now() / 1e3;
    this.drawing = false;
    this.known = new Promise((resolve) => (this.onKnown = resolve)); // the stream's facts, which may come after its first group
  }

  text(name, value) {
    const found = this.root.querySelector(`[data-text="${name}"]`);
    if (found.textContent !== value) found.textContent = value;
  }

  number(name, value, bad = false) {
    let dd = this.numbers[name];
    if (!dd) {
      const [div, dt] = [document.createElement("div"), document.createElement("dt")];
      dd = this.numbers[name] = document.createElement("dd");
      dd.dataset.number = dt.textContent = name;
      div.append(dt, dd);
      this.root.querySelector("dl").append(div);
    }
    dd.textContent = value;
    dd.classList.toggle("bad", bad);
  }

  canvas(name) {
    const figure = this.root.querySelector(`[data-figure="${name}"]`);
    figure.hidden = false;
    return figure.firstElementChild;
  }

  async group(head, parts) {
    const now = performance.now() / 1e3;
    this.last = { head, now };
    this.arrivals = [...this.arrivals.filter((each) => now - each < 5), now];
    this.numbersOf(head);
    this.drawTokens(head, parts);
    if (Object.keys(head.stages_ms).length) this.plot(now - this.began, head.stages_ms);
    if (decodeHere.checked && parts.tokens) return this.decodeHere(head, parts.tokens);
    if (this.drawing) return; // a browser that is slow leaves out pictures
    this.drawing = true;
    try {
      for (const name of ["source", "picture"]) if (parts[name]) await drawImage(this.canvas(name), parts[name]);
      this.decoded = parts.picture ? head.seq : this.decoded;
    } finally {
      this.drawing = false;
    }
  }

  // Decodes one group after the other; where no step fits, the viewer's problem says so.
  decodeHere(head, data) {
    if (this.behind > MOST_BEHIND) return;
    this.behind = (this.behind ?? 0) + 1;
    this.chain = (this.chain ?? this.known).then(async () => {
      const step = (state.steps ?? []).find((each) => each.tokenizer === this.stream.tokenizer && String(each.grid) === String(head.grid));
      if (!step) return;
      this.decoder ??= Decoder.load(step.file);
      const image = await (await this.decoder).step(head, readTokens(head, data));
      if (!image) return;
      const canvas = this.canvas("picture");
      if (canvas.width !== image.width || canvas.height !== image.height) [canvas.width, canvas.height] = [image.width, image.height];
      canvas.getContext("2d").putImageData(image, 0, 0);
      this.root.dataset.decodedHere = head.seq;
    }).catch((error) => note(`decoding here: ${error.message}`)).finally(() => this.behind--);
  }

  numbersOf(head) {
    const totals = head.totals ?? {};
    const stages = head.stages_ms;
    const span = this.arrivals.at(-1) - this.arrivals[0];
    this.number("groups/s", span > 0 ? ((this.arrivals.length - 1) / span).toFixed(1) : "-");
    if (stages.encode !== undefined) {
      this.number("capture to publish", `${(stages.wait + stages.encode).toFixed(0)} ms`);
      this.number("encode", `${stages.encode.toFixed(1)} ms`);
    }
    if (stages.travel !== undefined) this.number("to this viewer", `${stages.travel.toFixed(1)} ms`);
    this.number("seq", head.seq);
    this.number("epoch", head.epoch);
    if (!head.totals) return this.number("dropped", head.dropped, head.dropped > 0);
    this.number("groups", totals.groups);
    this.number("dropped", totals.dropped ?? 0, totals.dropped > 0);
    this.number("gaps", totals.gaps ?? 0, totals.gaps > 0);
    this.number("lost", totals.lost ?? 0, totals.lost > 0);
    this.number("kB/s", span > 0 ? ((totals.bytes / totals.groups / 1e3) * (this.arrivals.length - 1) / span).toFixed(1) : "-");
  }

  drawTokens(head, parts) {
    const [height, width] = head.grid.slice(-2);
    const canvas = this.canvas("tokens");
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const image = new ImageData(width, height);
    const colours = parts.colours ?? tokenColours(head, parts.tokens);
    for (let i = 0; i < width * height; i++) image.data.set([colours[3 * i], colours[3 * i + 1], colours[3 * i + 2], 255], 4 * i);
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  plot(at, stages) {
    this.series[0].push(at);
    Object.keys(STAGES).forEach((name, i) => this.series[i + 1].push(stages[name] ?? null));
    this.series.at(-1).push(stages.wait + stages.encode);
    while (this.series[0][0] < at - WINDOW_S) this.series.forEach((each) => each.shift());
    this.dirty = true;
  }

  redraw() {
    if (!this.dirty) return;
    this.dirty = false;
    const width = this.root.querySelector(".plot").clientWidth;
    if (!this.chart) this.chart = makeChart(this.root.querySelector(".plot"), width, this.series);
    else if (this.chart.width !== width) this.chart.setSize({ width, height: 160 });
    this.chart.setData(this.series);
  }

  facts(stream) {
    this.stream = stream;
    this.onKnown();
    this.text("stream", stream.stream);
    this.text("model", [stream.node, stream.model, `${stream.temporal_compression}x${stream.spatial_compression}x${stream.spatial_compression}`].join(" · "));
    this.text("grid", `tokens, ${stream.grid.join(" x ")}`);
    this.text("problem", stream.problem ? `no pictures: ${stream.problem}` : "");
    if (this.last) this.number("malformed", stream.malformed, stream.malformed > 0);
  }

  status() {
    const silent = this.last ? performance.now() / 1e3 - this.last.now : Infinity;
    const stream = this.stream ?? {};
    const usual = stream.frame_rate ? stream.temporal_compression / stream.frame_rate : 0.5;
    let [words, kind] = ["live", "good"];
    if (!state.live) [words, kind] = state.playing ? ["playing", "good"] : ["paused", ""];
    else if (stream.ended) [words, kind] = ["ended", ""];
    else if (stream.connected === false) [words, kind] = ["node gone", "bad"];
    else if (!this.last) [words, kind] = ["waiting", ""];
    else if (silent > Math.max(1.5, 4 * usual)) [words, kind] = [`no groups for ${silent.toFixed(0)} s`, "bad"];
    this.text("status", words);
    this.root.querySelector("h2 .chip").className = `chip ${kind}`;
    this.root.classList.toggle("silent", kind === "bad");
    this.root.dataset.status = words;
  }
}

function readTokens(head, data) {
  const aligned = data.slice().buffer;
  return head.dtype === "uint32" ? new Uint32Array(aligned) : new Uint16Array(aligned);
}

function tokenColours(head, data) {
  const [height, width] = head.grid.slice(-2);
  const tokens = readTokens(head, data);
  const [a, b, c] = head.levels;
  const out = new Uint8Array(3 * width * height);
  for (let i = 0; i < width * height; i++) {
    const t = tokens[i];
    if (head.levels.length < 3) out.set([(t * 97) & 255, (t * 57) & 255, (t * 23) & 255], 3 * i);
    else {
      const rest = Math.floor(t / a);
      out.set([((t % a) * 255) / (a - 1), ((rest % b) * 255) / (b - 1), ((Math.floor(rest / b) % c) * 255) / (c - 1)], 3 * i);
    }
  }
  return out;
}

async function drawImage(canvas, data) {
  const bitmap = await createImageBitmap(new Blob([data]));
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

function makeChart(place, width, series) {
  const ink = getComputedStyle(document.body).getPropertyValue("--dim");
  const axis = { stroke: ink, grid: { stroke: "#8883", width: 1 }, ticks: { show: false } };
  const lines = [...Object.entries(STAGES), ["capture to publish", "#3fb27f"]].map(([label, stroke]) => ({
    label: `${label} ms`, stroke, width: 1.5, points: { show: false }, value: (_, v) => (v == null ? "-" : v.toFixed(1)),
  }));
  const options = { width, height: 160, scales: { x: { time: false } }, cursor: { drag: { x: false } } };
  return new uPlot({ ...options, axes: [axis, { ...axis, size: 44 }], series: [{ label: "s" }, ...lines] }, series, place);
}

function cardOf(id) {
  if (!cards.has(id)) cards.set(id, new Card(id));
  return cards.get(id);
}

function take(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const parts = {};
  let at = 4 + length;
  for (const [name, size] of Object.entries(head.parts)) {
    parts[name] = new Uint8Array(buffer, at, size);
    at += size;
  }
  cardOf(head.id).group(head, parts);
  if (head.at !== undefined && !dragging) showTime(head.at);
}

function takeState(next) {
  state = next;
  for (const stream of state.streams) cardOf(stream.id).facts(stream);
  const waiting = (state.nodes ?? []).filter((node) => !node.connected).map((node) => node.endpoint);
  $("where").textContent = state.live ? state.nodes.map((node) => node.endpoint).join(", ") : state.name;
  note([...(waiting.length ? [`no node answers at ${waiting.join(", ")}`] : []), ...(state.damage ?? [])].join("; "));
  $("here").parentElement.hidden = !state.steps?.length;
  $("player").hidden = state.live;
  if (state.live) return;
  $("at").max = state.seconds;
  $("play").textContent = state.playing ? "pause" : "play";
  if (!$("strips").childElementCount) state.streams.forEach(drawStrip);
}

function note(text) {
  $("note").textContent = text;
  $("note").hidden = !text;
}

function drawStrip(stream) {
  const [row, canvas, name] = ["div", "canvas", "span"].map((tag) => document.createElement(tag));
  row.className = "strip";
  name.textContent = stream.stream;
  [canvas.width, canvas.height] = [stream.coverage.length, 1];
  const most = Math.max(...stream.coverage);
  const context = canvas.getContext("2d");
  stream.coverage.forEach((count, i) => {
    context.fillStyle = `rgba(63, 178, 127, ${count / most})`;
    context.fillRect(i, 0, 1, 1);
  });
  row.append(canvas, name);
  $("strips").append(row);
}

function showTime(seconds) {
  $("at").value = seconds;
  $("clock").textContent = `${seconds.toFixed(1)} / ${(state.seconds ?? 0).toFixed(1)} s`;
}

function order(op, values = {}) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ op, ...values }));
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/socket${location.search}`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    chip("connected", "good");
    if (decodeHere.checked) order("pictures", { on: false });
  };
  socket.onmessage = ({ data }) => {
    if (data instanceof ArrayBuffer) return take(data);
    const message = JSON.parse(data);
    message.kind === "state" ? takeState(message) : note(message.error);
  };
  socket.onclose = ({ code, reason }) => {
    if (code === 4000) return chip(`${reason}; reload to look again`, "bad");
    chip("viewer gone, trying again", "bad");
    setTimeout(connect, 1000);
  };
}

function chip(words, kind) {
  $("connection").textContent = words;
  $("connection").className = `chip ${kind}`;
}

decodeHere.checked = new URLSearchParams(location.search).get("decode") === "here";
decodeHere.onchange = () => order("pictures", { on: !decodeHere.checked });
$("play").onclick = () => order(state.playing ? "pause" : "play");
$("speed").onchange = () => order("speed", { times: Number($("speed").value) });
$("at").oninput = () => {
  dragging = true;
  showTime(Number($("at").value));
};
$("at").onchange = () => {
  dragging = false;
  order("seek", { at: Number($("at").value) });
};
setInterval(() => cards.forEach((card) => card.status()), 200);
setInterval(() => cards.forEach((card) => card.redraw()), 250);
connect();
