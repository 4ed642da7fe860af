// The connection to the server: it comes back by itself, and tells how much it carries.

const FIRST_MS = 400, LAST_MS = 4000;

export class Link {
  // on: {open, lost, type or kind of a message}: functions
  constructor(on) {
    this.on = on;
    this.shows = [];
    this.number = 0;
    this.waiting = new Map();
    this.bytes = 0;
    this.pause = FIRST_MS;
    this.connect();
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(`${scheme}//${location.host}/ws`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => { this.pause = FIRST_MS; this.tellShows(); this.on.open?.(); };
    this.socket.onmessage = (event) => this.take(event.data);
    this.socket.onclose = (event) => this.lost(event.reason);
  }

  lost(reason) {
    for (const answer of this.waiting.values()) answer({ success: false, code: "LOST", message: "The connection was lost before the answer came." });
    this.waiting.clear();
    this.on.lost?.(reason);
    setTimeout(() => this.connect(), this.pause);
    this.pause = Math.min(this.pause * 1.7, LAST_MS);
  }

  async take(data) {
    if (typeof data === "string") {
      this.bytes += data.length;
      const message = JSON.parse(data);
      if (message.type === "reply") {
        this.waiting.get(message.number)?.(message);
        this.waiting.delete(message.number);
      } else this.on[message.type]?.(message);
      return;
    }
    this.bytes += data.byteLength;
    const size = new DataView(data).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
    try {
      await this.on[header.kind]?.(header, data, 4 + size);
    } finally {
      this.send({ type: "ack" }); // the server sends no more than this page can show
    }
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  // Which binary kinds are on the screen; nothing else is made or sent.
  show(kinds) {
    this.shows = kinds;
    this.tellShows();
  }

  tellShows() {
    this.send({ type: "shows", kinds: document.hidden ? [] : this.shows });
  }

  // Ask for something; resolves to the reply.
  request(action, text = "") {
    if (this.socket.readyState !== WebSocket.OPEN) {
      return Promise.resolve({ success: false, code: "LOST", message: "The web view's server is not connected." });
    }
    const number = ++this.number;
    this.send({ type: "request", number, action, text });
    return new Promise((resolve) => this.waiting.set(number, resolve));
  }
}
