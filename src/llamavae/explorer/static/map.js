// The map: points, marks over them, and moving about.
//
// Points are written into the pixels of a canvas. For the numbers of points that are shown here this
// takes a few milliseconds on any machine, with or without a GPU, and needs no library.

// Variables of the style sheet: the palette of Okabe and Ito, which colour-blind people distinguish.
export const COLOURS = ["--blue", "--orange", "--green", "--vermilion", "--purple", "--sky"];
export const OTHER = "--grey";

const NEAR = 12; // pixels within which a point is meant
const STILL = 4; // pixels that a click may move

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class LatentMap {
  /**
   * `on` has the functions `hover(index)`, `point(index)`, `place([x, y])`, `path(from, to)` and
   * `view()`; places are in the units of the projection, and the ends of a path are indices of
   * points, or places.
   */
  constructor(element, on) {
    this.element = element;
    this.on = on;
    this.canvas = element.querySelector("#points");
    this.overlay = element.querySelector("#marks");
    this.points = new Float32Array();
    this.view = { x: 0, y: 0, zoom: 1 };
    this.marks = { selected: null, path: [], samples: [], rubber: null };
    this.pathMode = false;
    this.#resize();
    new ResizeObserver(() => this.#resize()).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.#listen();
  }

  /** Show points (x, y, x, y, ...) with a colour, a variable of the style, for each category. */
  show(points, categories, colours) {
    this.points = points;
    this.categories = categories;
    this.colours = colours;
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < points.length; i += 2) {
      left = Math.min(left, points[i]);
      right = Math.max(right, points[i]);
      low = Math.min(low, points[i + 1]);
      high = Math.max(high, points[i + 1]);
    }
    this.centre = [(left + right) / 2, (low + high) / 2];
    this.extent = [(right - left) / 2 || 1, (high - low) / 2 || 1];
    this.unit = Math.max(...this.extent);
    this.draw();
  }

  /** Draw everything in the next frame. */
  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (!this.points.length) return;
      this.#drawPoints();
      this.#drawMarks();
    });
  }

  // ------------------------------------------------------------------------------ the view

  /** Half of the height of the map in its own unit, at zoom 1. */
  get #fit() {
    const wide = this.width / this.height;
    return 1.08 * Math.max(this.extent[1], this.extent[0] / wide) / this.unit;
  }

  get #scale() {
    return this.view.zoom / this.#fit;
  }

  toPixel([x, y]) {
    const s = (this.#scale * this.height) / 2;
    return [
      this.width / 2 + s * ((x - this.centre[0]) / this.unit - this.view.x),
      this.height / 2 - s * ((y - this.centre[1]) / this.unit - this.view.y),
    ];
  }

  /** Where the first points are, in pixels. */
  pixels(count = 10) {
    return Array.from({ length: count }, (_, i) =>
      this.toPixel([this.points[2 * i], this.points[2 * i + 1]]));
  }

  toPlace([px, py]) {
    const s = (this.#scale * this.height) / 2;
    return [
      this.centre[0] + this.unit * (this.view.x + (px - this.width / 2) / s),
      this.centre[1] + this.unit * (this.view.y - (py - this.height / 2) / s),
    ];
  }

  setView(view, quiet = false) {
    const zoom = Math.min(200, Math.max(0.3, view.zoom));
    const bound = (value) => Math.min(2, Math.max(-2, value));
    this.view = { x: bound(view.x), y: bound(view.y), zoom };
    this.draw();
    if (!quiet) this.on.view();
  }

  pan(px, py) {
    const s = (this.#scale * this.height) / 2;
    this.setView({ ...this.view, x: this.view.x - px / s, y: this.view.y + py / s });
  }

  zoom(factor, [px, py] = [this.width / 2, this.height / 2]) {
    const before = this.toPlace([px, py]);
    this.setView({ ...this.view, zoom: this.view.zoom * factor }, true);
    const after = this.toPlace([px, py]);
    this.setView({
      zoom: this.view.zoom,
      x: this.view.x + (before[0] - after[0]) / this.unit,
      y: this.view.y + (before[1] - after[1]) / this.unit,
    });
  }

  /** Move so that a place is visible. */
  reveal(place) {
    const [px, py] = this.toPixel(place);
    if (px > 10 && py > 10 && px < this.width - 10 && py < this.height - 10) return;
    const [x, y] = [0, 1].map((i) => (place[i] - this.centre[i]) / this.unit);
    this.setView({ ...this.view, x, y });
  }

  #resize() {
    const { clientWidth, clientHeight } = this.element;
    if (!clientWidth || (clientWidth === this.width && clientHeight === this.height)) return;
    this.width = clientWidth;
    this.height = clientHeight;
    for (const canvas of [this.canvas, this.overlay]) {
      canvas.width = Math.round(clientWidth * devicePixelRatio);
      canvas.height = Math.round(clientHeight * devicePixelRatio);
    }
    this.draw();
  }

  // ------------------------------------------------------------------------- pointer and keys

  /** Index of the point near a pixel, or null. */
  nearest([px, py]) {
    if (!this.points.length) return null;
    const [x, y] = this.toPlace([px, py]);
    let [best, distance] = [null, Infinity];
    for (let i = 0; i < this.points.length; i += 2) {
      const d = (this.points[i] - x) ** 2 + (this.points[i + 1] - y) ** 2;
      if (d < distance) [best, distance] = [i / 2, d];
    }
    const s = (this.#scale * this.height) / 2 / this.unit;
    return Math.sqrt(distance) * s <= NEAR ? best : null;
  }

  #listen() {
    const at = (event) => {
      const box = this.element.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const held = new Map(); // pointers that are down
    let start = null;
    const target = (pixel) => this.nearest(pixel) ?? this.toPlace(pixel);
    this.element.addEventListener("pointerdown", (event) => {
      if (event.button || !this.points.length) return;
      this.element.setPointerCapture(event.pointerId);
      held.set(event.pointerId, at(event));
      const draws = (event.shiftKey || this.pathMode) && held.size === 1;
      start = { pixel: at(event), moved: held.size > 1, draws };
    });
    this.element.addEventListener("pointermove", (event) => {
      const pixel = at(event);
      const last = held.get(event.pointerId);
      if (!last) {
        const index = this.nearest(pixel);
        this.on.hover(index, pixel);
        return;
      }
      if (Math.hypot(pixel[0] - start.pixel[0], pixel[1] - start.pixel[1]) > STILL) {
        start.moved = true;
      }
      if (held.size === 2) {
        const [other] = [...held].filter(([id]) => id !== event.pointerId).map(([, p]) => p);
        const length = ([x, y]) => Math.hypot(x - other[0], y - other[1]);
        this.zoom(length(pixel) / Math.max(1, length(last)), other);
      } else if (start.draws) {
        this.marks.rubber = [start.pixel, pixel];
        this.draw();
      } else if (start.moved) {
        this.pan(pixel[0] - last[0], pixel[1] - last[1]);
      }
      held.set(event.pointerId, pixel);
    });
    const end = (event) => {
      if (!held.delete(event.pointerId) || held.size) return;
      const pixel = at(event);
      this.marks.rubber = null;
      if (event.type === "pointercancel") return;
      if (start.draws && start.moved) this.on.path(target(start.pixel), target(pixel));
      else if (!start.moved) this.choose(pixel);
      this.draw();
    };
    this.element.addEventListener("pointerup", end);
    this.element.addEventListener("pointercancel", end);
    this.element.addEventListener("pointerleave", () => this.on.hover(null));
    this.element.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        if (this.points.length) this.zoom(1.0015 ** -event.deltaY, at(event));
      },
      { passive: false },
    );
    const keys = {
      ArrowLeft: () => this.pan(40, 0),
      ArrowRight: () => this.pan(-40, 0),
      ArrowUp: () => this.pan(0, 40),
      ArrowDown: () => this.pan(0, -40),
      "+": () => this.zoom(1.3),
      "=": () => this.zoom(1.3),
      "-": () => this.zoom(1 / 1.3),
      0: () => this.setView({ x: 0, y: 0, zoom: 1 }),
      Enter: () => this.choose([this.width / 2, this.height / 2]),
    };
    this.element.addEventListener("keydown", (event) => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey || !this.points.length) return;
      event.preventDefault();
      keys[event.key]();
    });
    for (const kind of ["focus", "blur"]) this.element.addEventListener(kind, () => this.draw());
  }

  choose(pixel) {
    const index = this.nearest(pixel);
    if (index === null) this.on.place(this.toPlace(pixel));
    else this.on.point(index);
  }

  // -------------------------------------------------------------------------------- the marks

  /** Draw marks: `selected` and `samples` are places, `path` a list of places. */
  mark(marks) {
    Object.assign(this.marks, marks);
    this.draw();
  }

  #drawPoints() {
    const { width, height } = this.canvas;
    const context = this.canvas.getContext("2d");
    if (this.buffer?.width !== width || this.buffer.height !== height) {
      this.buffer = new ImageData(width, height);
    }
    const pixels = new Uint32Array(this.buffer.data.buffer).fill(0);
    const colours = this.colours.map((name) => this.#pixel(context, style(name)));
    const count = this.points.length / 2;
    const size = count > 20000 ? 1.5 : count > 3000 ? 2.2 : 3.5;
    const radius = size * devicePixelRatio * Math.min(2.5, Math.sqrt(Math.max(1, this.view.zoom)));
    const reach = Math.ceil(radius);
    const inner = []; // offsets of whole pixels, and of those at the rim with their opacity
    const rim = [];
    for (let dy = -reach; dy <= reach; dy++) {
      for (let dx = -reach; dx <= reach; dx++) {
        const covered = Math.min(1, radius + 0.5 - Math.hypot(dx, dy));
        if (covered === 1) inner.push([dx, dy]);
        else if (covered > 0.1) rim.push([dx, dy, Math.round(255 * covered) << 24]);
      }
    }
    const flat = (offsets) => Int32Array.from(offsets, ([dx, dy]) => dy * width + dx);
    const [whole, partial] = [flat(inner), flat(rim)];
    const opacity = Int32Array.from(rim, ([, , alpha]) => alpha);
    const s = ((this.#scale * this.height) / 2 / this.unit) * devicePixelRatio;
    const [left, top] = this.toPixel([0, 0]).map((each) => each * devicePixelRatio);
    for (let i = 0; i < count; i++) {
      const x = Math.round(left + s * this.points[2 * i]);
      const y = Math.round(top - s * this.points[2 * i + 1]);
      if (x < reach || y < reach || x >= width - reach || y >= height - reach) continue;
      const at = y * width + x;
      const colour = colours[this.categories ? this.categories[i] : 0];
      for (let k = 0; k < whole.length; k++) pixels[at + whole[k]] = colour;
      for (let k = 0; k < partial.length; k++) {
        const pixel = at + partial[k];
        if (pixels[pixel] === 0) pixels[pixel] = (colour & 0xffffff) | opacity[k];
      }
    }
    context.putImageData(this.buffer, 0, 0);
  }

  /** A colour as four bytes of `ImageData`. */
  #pixel(context, colour) {
    context.fillStyle = colour;
    const value = parseInt(context.fillStyle.slice(1), 16); // always #rrggbb
    const bytes = [value >> 16, (value >> 8) & 255, value & 255, 255];
    return new Uint32Array(Uint8Array.from(bytes).buffer)[0];
  }

  #drawMarks() {
    const context = this.overlay.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    this.#paint(context);
  }

  #paint(context) {
    const [ink, paper] = [style("--ink"), style("--paper")];
    const line = (pixels, width, colour) => {
      context.beginPath();
      for (const [x, y] of pixels) context.lineTo(x, y);
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.stroke();
    };
    const dot = ([x, y], radius, fill, text) => {
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fillStyle = fill;
      context.fill();
      context.lineWidth = 2;
      context.strokeStyle = paper;
      context.stroke();
      if (!text) return;
      context.fillStyle = paper;
      context.font = "bold 10px system-ui, sans-serif";
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.fillText(text, x, y + 0.5);
    };
    const path = this.marks.path.map((place) => this.toPixel(place));
    line(path, 5, paper);
    line(path, 2.5, ink);
    path.forEach((pixel, i) => dot(pixel, 8, ink, String(i + 1)));
    for (const place of this.marks.samples) {
      const [x, y] = this.toPixel(place);
      context.save();
      context.translate(x, y);
      context.rotate(Math.PI / 4);
      context.fillStyle = ink;
      context.strokeStyle = paper;
      context.lineWidth = 2;
      context.fillRect(-5, -5, 10, 10);
      context.strokeRect(-5, -5, 10, 10);
      context.restore();
    }
    if (this.marks.selected) {
      const [x, y] = this.toPixel(this.marks.selected);
      for (const [width, colour] of [[5, paper], [2.5, ink]]) {
        context.beginPath();
        context.arc(x, y, 10, 0, 2 * Math.PI);
        context.lineWidth = width;
        context.strokeStyle = colour;
        context.stroke();
      }
    }
    if (this.marks.rubber) {
      context.setLineDash([6, 4]);
      line(this.marks.rubber, 2, ink);
      context.setLineDash([]);
    }
    if (document.activeElement === this.element && this.element.matches(":focus-visible")) {
      const [x, y] = [this.width / 2, this.height / 2]; // where Enter selects
      line([[x - 9, y], [x + 9, y]], 1.5, ink);
      line([[x, y - 9], [x, y + 9]], 1.5, ink);
    }
  }

  /** What is seen, as an image. */
  async image() {
    const copy = document.createElement("canvas");
    copy.width = this.overlay.width;
    copy.height = this.overlay.height;
    const context = copy.getContext("2d");
    context.fillStyle = style("--box");
    context.fillRect(0, 0, copy.width, copy.height);
    context.drawImage(this.canvas, 0, 0);
    context.drawImage(this.overlay, 0, 0);
    return new Promise((done) => copy.toBlob(done, "image/png"));
  }
}
