// NiiVue viewer of the volumes in this page. Its script is for notebooks, where it reads its data from a model; `Stand` replaces that model.
"use strict";

const COLOURS = ["#e69f00", "#cc79a7", "#f0e442", "#009e73", "#d55e00", "#ffffff"];  // as in report.css; blue is the reference
const REFERENCE_COLOUR = "#56b4e9";
const LETTER_PX = 16, SMALLEST_LETTER_PX = 8, LETTERS_PER_SIDE = 2.5;  // a letter stays in its own half of the slice
const GAP_PX = 6;  // between the slices of three planes
const IN_PLANE = {0: [0, 1], 1: [0, 2], 2: [1, 2]};  // axes of an axial, coronal and sagittal slice

class Stand {
  static all = {};
  _comm_live = false;  // no notebook to send changes to
  constructor(id, values) { this.values = {id, ...values}; this.listeners = {}; Stand.all[id] = this; }
  get(name) { return this.values[name]; }
  set(name, value) { this.values[name] = value; }
  on(event, listener) { (this.listeners[event] ??= []).push(listener); }
  off(event, listener) { this.listeners[event] = listener ? (this.listeners[event] ?? []).filter((l) => l !== listener) : []; }
  send(message) { this.onSend?.(message); }
  save_changes() {}
  send_sync_message() {}
  widget_manager = {get_model: async (id) => Stand.all[id]};
  change(name, value) { this.set(name, value); for (const l of this.listeners[`change:${name}`] ?? []) l(); }
  tell(type, ...data) { for (const l of this.listeners["msg:custom"] ?? []) l({type, data}, []); }
}

async function bytes(base64) {
  return new Uint8Array(await (await fetch(`data:application/octet-stream;base64,${base64}`)).arrayBuffer());
}

async function unpacked(base64) {
  const stream = new Blob([await bytes(base64)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

function lut(colours) {
  const rgb = colours.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  const values = [[0, 0, 0, 0], ...rgb.map((c) => [...c, 255])];
  return {lut: values.flat(), min: 0, max: colours.length, labels: ["", ...colours.map(() => "")]};
}

let niivue = null, open = null, count = 0;

async function begin() {
  const url = URL.createObjectURL(new Blob([await unpacked(NIIVUE_GZ)], {type: "text/javascript"}));
  const widget = (await import(url)).default;
  URL.revokeObjectURL(url);
  const model = new Stand("viewer", {
    height: 560, volumes: [], meshes: [], this_model_id: "", scene: {}, graph: {}, draw_lut: null, draw_opacity: 0.8,
    draw_fill_overwrites: true, background_masks_overlays: 0, overlay_outline_width: 0, overlay_alpha_shader: 1,
    opts: {
      isRadiologicalConvention: true, sagittalNoseLeft: true, multiplanarForceRender: false, dragAndDropEnabled: false,
      isNearestInterpolation: false, crosshairColor: [0.9, 0.9, 0.9, 0.6], crosshairWidth: 0.5, fontColor: [0.85, 0.85, 0.85, 1],
      logLevel: "error", loadingText: "", showLegend: false, isColorbar: false, multiplanarShowRender: 0, multiplanarPadPixels: GAP_PX,
      // Letters in the corners, "RA": NiiVue adds its padding twice to letters at the middle of a side, which moved R to the left.
      isCornerOrientationText: true, isOrientationTextVisible: true, fontMinPx: LETTER_PX, fontSizeScaling: 0, sliceType: 3,
      viewModeHotKey: "",  // the list of views is the only way to change the view
    },
  });
  const quiet = console.log;
  console.log = () => {};  // the widget logs each step
  try { await widget.initialize({model}); } finally { console.log = quiet; }
  return {widget, model};
}

let turn = Promise.resolve();  // cases are shown one after the other: the widget cannot load two at the same time

class Viewer {
  constructor(place) {
    this.place = place;
    this.stage = place.querySelector(".stage");
    this.button = place.querySelector(".open");
    const numbers = (name) => place.dataset[name].split(" ").map(Number);
    this.shape = numbers("shape"); this.factors = numbers("factors"); this.window = numbers("window");
    this.n = place.dataset.labels.split("|").length;
    this.button.addEventListener("click", () => open === this ? this.close() : this.show());
    new ResizeObserver(() => { if (open === this && this.isLoaded) this.letters(); }).observe(this.stage.querySelector(".canvas"));
  }

  async volumes() {
    const made = {};
    for (const script of this.place.querySelectorAll("script.volume")) {
      const kind = script.dataset.kind, id = `${kind}-${++count}`;
      const data = new DataView((await bytes(script.textContent.trim())).buffer);
      const isImage = kind === "image";
      made[kind] = new Stand(id, {
        data, name: `${id}.nii.gz`, path: {}, url: "", paired_img_path: {}, paired_img_url: "", colormap: "gray", colormap_negative: "",
        opacity: isImage ? 1 : kind === "prediction" ? 0.5 : 0, frame_4d: 0, colorbar_visible: false, colormap_type: 0,
        colormap_invert: false, modulation_image: null, modulate_alpha: 0, cal_min_neg: NaN, cal_max_neg: NaN,
        cal_min: isImage ? this.window[0] : 0, cal_max: isImage ? this.window[1] : this.n,
        colormap_label: isImage ? null : lut(Array.from({length: this.n}, (_, i) => kind === "reference" ? REFERENCE_COLOUR : COLOURS[i % COLOURS.length])),
      });
    }
    return made;
  }

  show(voxel) {
    const shown = turn.then(async () => {
      if (open !== this) await this.load();
      this.jump(voxel ?? this.first());
      this.stage.scrollIntoView({block: "nearest"});
    });
    turn = shown.catch((error) => {
      open = null;
      this.stage.hidden = false;
      this.stage.querySelector(".location").textContent = `The viewer cannot be shown in this browser: ${error.message}`;
    });
    return turn;
  }

  async load() {
    open?.close();
    open = this;
    this.isLoaded = false;
    this.stage.hidden = false;
    this.button.textContent = "Close the viewer";
    const location = this.stage.querySelector(".location");
    location.textContent = "loading";
    niivue ??= begin();
    const {widget, model} = await niivue;
    this.model = model;
    const before = model.get("volumes").map((name) => name.slice("IPY_MODEL_".length));
    this.parts = await this.volumes();
    model.onSend = () => {};
    const order = ["image", "reference", "prediction"].filter((k) => this.parts[k]);
    model.set("volumes", order.map((k) => `IPY_MODEL_${this.parts[k].get("id")}`));
    const quiet = console.log;
    console.log = () => {};
    try {
      await widget.render({model, el: this.stage.querySelector(".canvas")});
      for (const l of model.listeners["change:volumes"] ?? []) await l();
      await this.loaded();
    } finally { console.log = quiet; }
    for (const id of before) delete Stand.all[id];
    model.onSend = (m) => { if (m.event === "location_change") location.textContent = this.describe(m.data); };
    this.controls();
    this.isLoaded = true;
    location.textContent = "";
  }

  async loaded() {  // a widget that was shown before loads by itself; `dims_ras` is the last value that it sets
    const parts = Object.values(this.parts), wait = (ms) => new Promise((done) => setTimeout(done, ms));
    for (let i = 0; i < 1200 && !parts.every((p) => p.get("dims_ras")); i++) await wait(50);
    if (!parts.every((p) => p.get("dims_ras"))) throw new Error("a volume was not loaded");
    await wait(50);  // and then puts the volumes in their order
  }

  first() {
    const link = this.place.closest(".case").querySelector(".jump");
    return link ? link.dataset.voxel.split(" ").map(Number) : this.shape.map((n, a) => Math.floor(n * this.factors[a] / 2));
  }

  jump(voxel) {
    const at = voxel.map((v, a) => ((v + 0.5) / this.factors[a]) / this.shape[a]);
    this.model.change("scene", {crosshairPos: this.turned(at)});
    this.model.tell("draw_scene");
    this.model.tell("move_crosshair_in_vox", 0, 0, 0);  // a move by 0 makes the widget send the position
    this.place.dataset.crosshair = voxel.join(" ");
  }

  turned(at) {  // NiiVue may order the axes of a scan at 45 degrees differently: find the axis of the file for each of its axes
    const {affine} = this.parts.image.get("hdr"), matrix = this.parts.image.get("mat_ras"), axes = [0, 1, 2];
    const mine = (a) => axes.map((r) => affine[r][a]), its = (a) => axes.map((r) => matrix[4 * r + a]);
    const dot = (u, v) => axes.reduce((sum, r) => sum + u[r] * v[r], 0);
    const cosine = (u, v) => dot(u, v) / Math.sqrt(dot(u, u) * dot(v, v));
    return axes.map((a) => {
      const cosines = axes.map((b) => cosine(its(a), mine(b)));
      const same = axes.reduce((best, b) => Math.abs(cosines[b]) > Math.abs(cosines[best]) ? b : best);
      return cosines[same] > 0 ? at[same] : 1 - at[same];
    });
  }

  letters() {  // as large as the narrowest slice of the view allows; hidden if an R could reach into the other half
    const canvas = this.stage.querySelector(".canvas"), shown = this.model.get("opts");
    const size = Math.min(LETTER_PX, this.thinnest(shown.sliceType, canvas.clientWidth, canvas.clientHeight) / LETTERS_PER_SIDE);
    const fit = size >= SMALLEST_LETTER_PX, fontMinPx = fit ? size : SMALLEST_LETTER_PX;
    this.stage.querySelector(".thin").hidden = fit;
    if (shown.fontMinPx === fontMinPx && shown.isOrientationTextVisible === fit) return;
    this.model.change("opts", {...shown, fontMinPx, isOrientationTextVisible: fit});
    this.model.tell("resize_listener");  // NiiVue reads the size of its letters here, and draws
  }

  thinnest(layout, width, height) {  // pixels of the shortest side of a slice
    const low = this.parts.image.get("extents_min_ortho"), high = this.parts.image.get("extents_max_ortho");
    const mm = [0, 1, 2].map((a) => high[a] - low[a]), [x, y, z] = mm;
    if (layout === 4) return Infinity;  // a surface has no letters
    if (layout !== 3) {
      const [a, b] = IN_PLANE[layout].map((axis) => mm[axis]);
      return Math.min(a, b) * Math.min(width / a, height / b);
    }
    const grid = Math.min((width - GAP_PX) / (x + y), (height - GAP_PX) / (y + z));
    const row = Math.min((width - 2 * GAP_PX) / (2 * x + y), height / Math.max(y, z));
    return Math.min(x, y, z) * Math.max(grid, row);  // NiiVue uses the larger; a column of slices would be larger still
  }

  describe(data) {
    const [r, a, s] = data.mm, value = data.values?.[0]?.value;
    const side = (v, plus, minus) => `${Math.abs(v).toFixed(1)} mm ${v >= 0 ? plus : minus}`;
    const grey = value === undefined ? "" : `, value ${Number(value.toPrecision(4))}`;
    return `${side(r, "right", "left")}, ${side(a, "anterior", "posterior")}, ${side(s, "superior", "inferior")}${grey}`;
  }

  controls() {  // all cases share one widget: reset its settings for each case
    const find = (name) => this.stage.querySelector(`.${name}`), {image, prediction, reference} = this.parts;
    const [low, high, layout, outline] = [find("low"), find("high"), find("layout"), find("outline")];
    low.value = Number(this.window[0].toPrecision(4)); high.value = Number(this.window[1].toPrecision(4));
    low.onchange = () => image.change("cal_min", Number(low.value));
    high.onchange = () => image.change("cal_max", Number(high.value));
    find("opacity").value = 0.5;
    find("opacity").oninput = (e) => prediction.change("opacity", Number(e.target.value));
    if (reference) {
      find("reference-opacity").value = 0;
      find("reference-opacity").oninput = (e) => reference.change("opacity", Number(e.target.value));
    }
    outline.onchange = () => this.model.change("overlay_outline_width", outline.checked ? 1 : 0);
    layout.onchange = () => {
      this.model.change("opts", {...this.model.get("opts"), sliceType: Number(layout.value)});
      this.letters();
      this.model.tell("update_gl_volume");
    };
    outline.checked = false;
    layout.value = "3";
    outline.onchange();
    layout.onchange();
  }

  close() {
    this.stage.hidden = true;
    this.button.textContent = "Open the viewer";
    open = null;
  }
}

for (const place of document.querySelectorAll(".viewer")) {
  const viewer = new Viewer(place), section = place.closest(".case");
  for (const link of section.querySelectorAll(".jump")) {
    link.addEventListener("click", (event) => { event.preventDefault(); viewer.show(link.dataset.voxel.split(" ").map(Number)); });
  }
  for (const figure of section.querySelectorAll("figure")) {
    const jump = () => {
      const voxel = viewer.first(), axis = Number(figure.dataset.axis);
      voxel[axis] = Number(figure.dataset.index);
      viewer.show(voxel);
    };
    figure.tabIndex = 0;
    figure.setAttribute("role", "button");
    figure.setAttribute("aria-label", `Show in the viewer: ${figure.querySelector("figcaption").textContent}`);
    figure.addEventListener("click", jump);
    figure.addEventListener("keydown", (event) => { if (event.key === "Enter") jump(); });
  }
}
