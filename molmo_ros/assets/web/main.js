// Joins the parts: what the server says goes to the panels, what the user does to the server.

import { Link } from "./link.js";
import { element, showAnswer, showDiagnostics, showHistory, showLatency, showReply, showTargets } from "./panels.js";
import { Picture } from "./picture.js";
import { Space } from "./space.js";

const get = (id) => document.getElementById(id);
const picture = new Picture(get("image"), get("no-image"));
let space = null;
try {
  space = new Space(get("canvas3d"), get("no-space"));
} catch {
  get("no-space").textContent = "This browser has no WebGL; the rest works without it.";
}
const state = { answer: null, answeredAt: 0, chosen: 0, status: null, lost: "", camera: "", refused: "", live: true, tracking: false, filled: "" };

const link = new Link({
  open() { state.lost = ""; tellState(); },
  lost(reason) {
    state.lost = reason || "The server of this page does not answer; trying again ...";
    tellState();
  },
  hello(message) {
    state.live = message.live;
    get("name").textContent = message.name;
    document.title = `${message.name} · molmo_ros`;
    get("reel").hidden = message.live;
    get("save").hidden = !message.live;
  },
  status(message) { state.status = message; tellState(); },
  cameras: takeCameras,
  camera(message) { state.camera = message.problem; tellState(); },
  answer: takeAnswer,
  history(message) { showHistory(get("history"), message.entries, (entry) => fill(entry)); },
  latency(message) { showLatency(get("latency"), message.stages); },
  diagnostics(message) { showDiagnostics(get("diagnostics"), message); },
  gripper(message) { space?.setHand(message); },
  track: takeTrack,
  reel(message) {
    get("position").textContent = message.text;
    get("play").textContent = message.playing ? "pause" : "play";
    get("play").dataset.move = message.playing ? "pause" : "play";
    if (get("query").value === state.filled) get("query").value = state.filled = message.query;
  },
  live: (header, data, start) => picture.take(header, data, start).then(caption),
  answer_image: (header, data, start) => picture.take(header, data, start).then(caption),
  scene(header, data, start) { space?.setCloud(header, data, start); spaceCaption(); },
  object(header, data, start) { space?.setCloud(header, data, start); },
});

function takeAnswer(answer) {
  const before = state.answer;
  state.answer = answer;
  state.answeredAt = performance.now();
  if (!answer.following || state.chosen >= answer.targets.length) state.chosen = 0;
  if (!answer.following || before?.query !== answer.query || before?.targets.length !== answer.targets.length) showAnswer(get("answer"), answer);
  picture.setAnswer(answer);
  space?.setAnswer(answer);
  showChosen();
  get("frame").textContent = answer.targets.length ? `${answer.targets.length} in ${answer.frame_id}` : "";
  spaceCaption();
}

function takeCameras({ names, shown }) {
  const options = names.map((name) => Object.assign(document.createElement("option"), { value: name, textContent: name }));
  get("camera").replaceChildren(...options);
  get("camera").value = shown;
  get("cameras").hidden = names.length < 2;
  if (state.shown !== undefined && state.shown !== shown) { picture.forget("live"); space?.forget(); caption(); get("space-caption").textContent = ""; }
  state.shown = shown;
}

function takeTrack(message) {
  state.tracking = message.running;
  get("stop").hidden = !message.running;
  get("stop").textContent = message.running ? `stop (${message.stage}: ${message.query})` : "stop";
}

function choose(i) {
  state.chosen = i;
  showChosen();
}

function showChosen() {
  picture.chosen = state.chosen;
  picture.draw();
  if (space) { space.chosen = state.chosen; space.drawMarks(); }
  const row = document.activeElement?.closest?.("#rows tr");
  const at = row ? [...get("rows").children].indexOf(row) : -1;
  showTargets(get("rows"), state.answer, state.chosen, choose);
  if (at >= 0) get("rows").children[at]?.focus();
}

function tellState() {
  const { lost, status, camera, refused } = state;
  const pill = get("status"), notice = get("notice");
  const [level, short] = lost ? ["error", "not connected"] : !status ? ["wait", "connecting"] : [status.level, { ok: "ready", wait: "waiting", warn: "not ready", error: "not there" }[status.level]];
  pill.className = `pill ${level}`;
  pill.textContent = short;
  const text = lost || [status && status.level !== "ok" ? status.text : camera, refused].filter(Boolean).join("\n");
  notice.hidden = !text;
  notice.textContent = text;
  notice.className = refused && !lost ? "error" : level === "ok" ? "warn" : level;
  const stale = Boolean(lost) || status?.level === "error";
  for (const id of ["picture", "space"]) get(id).classList.toggle("stale", stale);
}

function caption() {
  const shown = picture.pictures[picture.view];
  const old = shown && picture.view === "live" && state.live ? Math.floor((performance.now() - shown.at) / 1000) : 0;
  get("caption").textContent = shown ? `${shown.header.width} × ${shown.header.height}${old > 1 ? ` · came ${old} s ago` : ""}` : "";
}

function spaceCaption() {
  const header = space?.clouds.scene?.header;
  if (!header) return;
  const apart = space.placed ? "" : ` · no transform to ${state.answer.frame_id}: the targets cannot be shown here`;
  get("space-caption").textContent = `${header.count} points in ${header.frame_id}${apart}`;
}

// --- what the user does

function mode() { return document.querySelector("[name=mode]:checked").value; }

function setMode(value) {
  document.querySelector(`[name=mode][value=${value}]`).checked = true;
  get("send").textContent = { ground: "find", track: "track", ask: "ask" }[value];
}

function fill(entry) {
  get("query").value = entry.query;
  setMode({ find: "ground", ask: "ask", track: "track" }[entry.mode] ?? "ground");
  get("query").focus();
}

function setView(view) {
  document.querySelector(`[name=view][value=${view}]`).checked = true;
  picture.view = view;
  link.show(view === "live" ? ["live", "answer_image", "scene", "object"] : ["answer_image", "scene", "object"]);
  picture.draw();
  caption();
}

async function submit(event) {
  event.preventDefault();
  const text = get("query").value, action = mode();
  if (!text.trim()) { get("query").focus(); return; }
  state.refused = "";
  tellState();
  if (action === "track") setView("live");
  const send = get("send");
  send.disabled = action !== "track";
  if (send.disabled) send.textContent = "...";
  const reply = await link.request(action, text);
  send.disabled = false;
  setMode(mode());
  if (!reply.success || action === "ask") showReply(get("answer"), text, reply);
  else if (action === "ground") setView("answer_image");
}

function reset() {
  if (space) { space.turned = false; space.reset(); }
}

async function tell(action, text = "") {
  const reply = await link.request(action, text);
  state.refused = reply.success ? "" : `${action}: ${reply.message} (${reply.code})`;
  if (action === "save" && reply.success) showReply(get("answer"), "saved", { success: true, answer: reply.message });
  tellState();
}

get("form").addEventListener("submit", submit);
get("stop").addEventListener("click", () => tell("cancel"));
get("save").addEventListener("click", () => tell("save"));
get("camera").addEventListener("change", (event) => tell("show", event.target.value));
get("reset").addEventListener("click", reset);
for (const button of document.querySelectorAll("[data-move]")) button.addEventListener("click", () => tell("move", button.dataset.move));
get("modes").addEventListener("change", () => setMode(mode()));
get("views").addEventListener("change", (event) => setView(event.target.value));
document.addEventListener("visibilitychange", () => link.tellShows());

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  get("theme").textContent = theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", theme); } catch { /* private window */ }
}
get("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
let stored = null;
try { stored = localStorage.getItem("theme"); } catch { /* private window */ }
setTheme(stored === "dark" || stored === "light" ? stored : matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input[type=text]");
  if (event.key === "Escape") { state.refused = ""; tellState(); event.target.blur?.(); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { event.preventDefault(); get("query").focus(); get("query").select(); }
  else if (event.key === "l") setView("live");
  else if (event.key === "a") setView("answer_image");
  else if (event.key === "r") reset();
});

let bytes = 0;
setInterval(() => {
  get("rate").textContent = `${((link.bytes - bytes) / 1e6).toFixed(2)} MB/s`;
  bytes = link.bytes;
  if (state.answer) {
    const seconds = (performance.now() - state.answeredAt) / 1000;
    get("age").textContent = `${state.tracking ? "following, " : ""}${seconds.toFixed(0)} s ago`;
  }
  if (picture.answer && picture.view === "live") picture.draw();
  caption();
}, 1000);

setView("live");
setMode("ground");
get("query").focus();
