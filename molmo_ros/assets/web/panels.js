// Answer, targets, history, latency and diagnostics as HTML. All text goes in as text, never as markup.

import { ACCENTS } from "./picture.js";

const STAGES = ["frame", "preprocess", "vision", "prefill", "decode", "lift", "segment", "grasp"]; // in their order

export function element(tag, text = "", kind = "") {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

const known = (value) => value !== null && value !== undefined;
const fixed = (value, digits, scale = 1) => (known(value) ? (scale * value).toFixed(digits) : "–");

export function showAnswer(place, answer) {
  const title = element("b", answer.query);
  const said = element("p", found(answer.targets), answer.targets.length ? "said" : "said warn");
  place.replaceChildren(title, said, element("code", answer.answer.trim()));
}

export function showReply(place, query, reply) {
  const title = element("b", query);
  if (reply.success) place.replaceChildren(title, element("p", reply.answer || reply.message, "said"));
  else place.replaceChildren(title, element("p", `${reply.code}: ${reply.message}`, "said bad"));
}

function found(targets) {
  if (!targets.length) return "Not there: the model sees no such thing in this image.";
  const usable = targets.filter((target) => target.status === "OK").length;
  if (targets.length === 1) return usable ? "One target, and it can be grasped." : `Found, but it cannot be grasped: ${targets[0].status}.`;
  return `${targets.length} targets, ${usable} of them can be grasped.`;
}

export function showTargets(rows, answer, chosen, choose) {
  if (!answer.targets.length) {
    const cell = element("td", "None: what was asked for is not in the image.", "quiet");
    cell.colSpan = 11;
    const row = element("tr");
    row.append(cell);
    rows.replaceChildren(row);
    return;
  }
  rows.replaceChildren(...answer.targets.map((target, i) => targetRow(target, i, i === chosen, choose)));
}

function targetRow(target, i, isChosen, choose) {
  const row = element("tr", "", "target");
  row.classList.toggle("ok", target.status === "OK");
  row.classList.toggle("limited", target.limited);
  row.classList.toggle("chosen", isChosen);
  row.tabIndex = 0;
  row.setAttribute("aria-selected", isChosen);
  row.addEventListener("click", () => choose(i));
  row.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(i); });
  const name = element("td");
  const dot = element("i", "", "dot");
  dot.style.background = ACCENTS[i % ACCENTS.length];
  name.append(dot, target.point.label || "point");
  const sigma = target.covariance && [0, 1, 2].map((k) => fixed(Math.sqrt(target.covariance[k][k]), 1, 1000)).join(", ");
  const cells = [
    element("td", String(target.point.instance)), name, element("td", target.status, "tag"),
    element("td", fixed(target.point.confidence, 2), "n"), element("td", fixed(target.quality, 2), "n"),
    element("td", target.position ? target.position.map((v) => v.toFixed(3)).join(", ") : "–", "n"),
    element("td", sigma || "–", "n"), element("td", fixed(target.width, 0, 1000), "n"),
    element("td", fixed(target.opening, 0, 1000), "n"),
    element("td", target.object ? target.object.size.map((v) => (1000 * v).toFixed(0)).join(" × ") : "–", "n"),
    element("td", target.status_text),
  ];
  row.append(...cells);
  return row;
}

export function showHistory(list, entries, again) {
  list.replaceChildren(...entries.toReversed().map((entry) => {
    const item = element("li"), button = element("button");
    button.type = "button";
    button.title = "Put this text into the field";
    button.append(
      element("span", entry.time, "quiet"), element("span", entry.query),
      element("span", known(entry.ms) ? `${entry.mode}  ${entry.ms < 9999 ? `${entry.ms.toFixed(0)} ms` : `${(entry.ms / 1000).toFixed(0)} s`}` : entry.mode, "quiet"),
      element("span", entry.result, entry.ok ? "result" : "result bad"),
    );
    button.addEventListener("click", () => again(entry));
    item.append(button);
    return item;
  }));
}

export function showLatency(place, stages) {
  const known = Object.keys(stages), names = [...STAGES.filter((name) => known.includes(name)), ...known.filter((name) => !STAGES.includes(name) && name !== "total")];
  if (!known.length) return;
  if (stages.total) names.push("total");
  const most = Math.max(...names.map((name) => stages[name][1]), 1e-6);
  const bars = element("div", "", "bars");
  for (const name of names) {
    const [p50, p95] = stages[name];
    const track = element("div", "", "track"), wide = element("i"), bar = element("i");
    wide.style.width = `${(100 * p95) / most}%`;
    bar.style.width = `${(100 * p50) / most}%`;
    track.append(wide, bar);
    bars.append(element("span", name), track, element("span", p95 > p50 ? `${p50.toFixed(0)} / ${p95.toFixed(0)}` : p50.toFixed(0), "n"));
  }
  place.replaceChildren(bars);
}

export function showDiagnostics(place, message) {
  const open = new Set([...place.querySelectorAll("details[open]")].map((details) => details.dataset.name));
  place.replaceChildren(...message.statuses.map((status) => {
    const details = element("details"), summary = element("summary"), list = element("dl");
    details.dataset.name = status.name;
    details.open = open.has(status.name);
    summary.append(element("i", "", `dot ${message.gone ? "stale" : status.level}`), `${status.name}: `, element("span", status.message, "quiet"));
    for (const [key, value] of Object.entries(status.values)) list.append(element("dt", key), element("dd", value));
    details.append(summary, list);
    return details;
  }));
}
