// The image, live with the points of the last answer drawn over it, or as the answer shows it.

export const ACCENTS = ["#ffb830", "#40c4ff", "#b284ff", "#5cde94", "#ff80be", "#d6e254"];
const FRESH_MS = 1500; // older points may not lie on their objects any more

export class Picture {
  constructor(canvas, empty) {
    this.canvas = canvas;
    this.empty = empty;
    this.view = "live";
    this.pictures = {};
    this.answer = null;
    this.answeredAt = 0;
    this.chosen = 0;
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
  }

  async take(header, data, start) {
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, start)], { type: "image/jpeg" }));
    this.pictures[header.kind]?.bitmap.close();
    this.canvas.parentElement.style.setProperty("--aspect", `${header.width} / ${header.height}`);
    this.pictures[header.kind] = { header, bitmap, at: performance.now() };
    if (header.kind === this.view) this.draw();
  }

  forget(kind) {
    this.pictures[kind]?.bitmap.close();
    delete this.pictures[kind];
    this.draw();
  }

  setAnswer(answer) {
    this.answer = answer;
    this.answeredAt = performance.now();
    this.draw();
  }

  draw() {
    const shown = this.pictures[this.view];
    const { canvas } = this;
    const box = canvas.parentElement.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(box.width * ratio);
    canvas.height = Math.round(box.height * ratio);
    this.empty.hidden = Boolean(shown);
    if (!shown) return;
    const { width, height } = shown.header;
    const scale = Math.min(canvas.width / width, canvas.height / height);
    const left = (canvas.width - width * scale) / 2, top = (canvas.height - height * scale) / 2;
    const pen = canvas.getContext("2d");
    pen.drawImage(shown.bitmap, left, top, width * scale, height * scale);
    if (!this.answer) return;
    const place = ([x, y]) => [left + (x + 0.5) * scale, top + (y + 0.5) * scale];
    if (this.view === "live") this.drawPoints(pen, place, ratio);
    else this.drawChosen(pen, place, ratio);
  }

  drawPoints(pen, place, ratio) {
    const frame = this.pictures.live.header.frame_id;
    if (frame && this.answer.optical && this.answer.optical !== frame) return; // the answer is of another camera
    const old = performance.now() - this.answeredAt > FRESH_MS && !this.answer.following;
    pen.globalAlpha = old ? 0.55 : 1;
    this.answer.pixels.forEach((pixel, i) => {
      const target = this.answer.targets[i], [x, y] = place(pixel), color = ACCENTS[i % ACCENTS.length];
      cross(pen, x, y, ratio, color);
      const status = target.status === "OK" ? "" : ` · ${target.status.toLowerCase().replaceAll("_", " ")}`;
      label(pen, x + 12 * ratio, y - 12 * ratio, `${target.point.label || "point"}${status}`, ratio, color);
    });
    pen.globalAlpha = 1;
    this.drawChosen(pen, place, ratio);
  }

  drawChosen(pen, place, ratio) {
    const pixel = this.answer.targets.length > 1 && this.answer.pixels[this.chosen];
    if (!pixel) return;
    const [x, y] = place(pixel);
    pen.strokeStyle = "#ffffff";
    pen.lineWidth = 2 * ratio;
    pen.setLineDash([5 * ratio, 4 * ratio]);
    pen.beginPath();
    pen.arc(x, y, 15 * ratio, 0, 2 * Math.PI);
    pen.stroke();
    pen.setLineDash([]);
  }
}

function cross(pen, x, y, ratio, color) {
  for (const [ink, width] of [["#16191f", 4.5], [color, 2.2]]) {
    pen.strokeStyle = ink;
    pen.lineWidth = width * ratio;
    pen.beginPath();
    pen.arc(x, y, 6 * ratio, 0, 2 * Math.PI);
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.moveTo(x + dx * 6 * ratio, y + dy * 6 * ratio);
      pen.lineTo(x + dx * 12 * ratio, y + dy * 12 * ratio);
    }
    pen.stroke();
  }
}

function label(pen, x, y, text, ratio, color) {
  pen.font = `600 ${12 * ratio}px system-ui, "DejaVu Sans", sans-serif`;
  const width = pen.measureText(text).width, pad = 6 * ratio, height = 19 * ratio;
  x = Math.min(x, pen.canvas.width - width - 2 * pad - 4 * ratio);
  y = Math.max(y - height, 2);
  pen.fillStyle = "rgba(22, 25, 31, .88)";
  pen.fillRect(x, y, width + 2 * pad + 3 * ratio, height);
  pen.fillStyle = color;
  pen.fillRect(x, y, 3 * ratio, height);
  pen.fillStyle = "#f6f7f9";
  pen.textBaseline = "middle";
  pen.fillText(text, x + 3 * ratio + pad, y + height / 2);
}
