// NiiVue on the volumes inside this page. Its script is made for notebooks and speaks with a model there; `Stand` stands in for it.
"use strict";

const COLOURS = ["#e69f00", "#cc79a7", "#f0e442", "#009e73", "#d55e00", "#ffffff"];  // as in report.css; blue is the reference
const REFERENCE_COLOUR = "#56b4e9";

class Stand {
  static all = {};
  _comm_live = false;  // nothing is to be sent back
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
      logLevel: "error", loadingText: "", showLegend: false, isColorbar: false, multiplanarShowRender: 0,
    },
  });
  const quiet = console.log;
  console.log = () => {};  // it tells each step
  try { await widget.initialize({model}); } finally { console.log = quiet; }
  return {widget, model};
}

class Viewer {
  constructor(place) {
    this.place = place;
    this.stage = place.querySelector(".stage");
    const numbers = (name) => place.dataset[name].split(" ").map(Number);
    this.shape = numbers("shape"); this.factors = numbers("factors"); this.window = numbers("window");
    this.n = place.dataset.labels.split("|").length;
    place.querySelector(".open").addEventListener("click", () => open === this ? this.close() : this.show());
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

  async show(voxel) {
    if (open !== this) {
      open?.close();
      open = this;
      this.stage.hidden = false;
      this.place.querySelector(".open").textContent = "Close the viewer";
      const location = this.stage.querySelector(".location");
      location.textContent = "loading";
      niivue ??= begin();
      const {widget, model} = await niivue;
      this.model = model;
      this.parts = await this.volumes();
      model.onSend = (m) => { if (m.event === "location_change") location.textContent = this.describe(m.data); };
      const order = ["image", "reference", "prediction"].filter((k) => this.parts[k]);
      model.set("volumes", order.map((k) => `IPY_MODEL_${this.parts[k].get("id")}`));
      const quiet = console.log;
      console.log = () => {};
      try {
        await widget.render({model, el: this.stage.querySelector(".canvas")});
        for (const l of model.listeners["change:volumes"] ?? []) await l();
        await this.loaded();
      } finally { console.log = quiet; }
      this.controls();
      model.tell("resize_listener");
      location.textContent = "";
    }
    this.jump(voxel ?? this.first());
    this.stage.scrollIntoView({block: "nearest"});
  }

  async loaded() {  // the widget loads on its own account where it was shown before
    const image = this.parts.image;
    for (let i = 0; i < 200 && !image.get("dims_ras"); i++) await new Promise((done) => setTimeout(done, 50));
  }

  first() {
    const link = this.place.closest(".case").querySelector(".jump");
    return link ? link.dataset.voxel.split(" ").map(Number) : this.shape.map((n, a) => n * this.factors[a] / 2);
  }

  jump(voxel) {
    const at = voxel.map((v, a) => ((v + 0.5) / this.factors[a]) / this.shape[a]);
    this.model.change("scene", {crosshairPos: at});
    this.model.tell("draw_scene");
    this.model.tell("move_crosshair_in_vox", 0, 0, 0);  // tells where it is
    this.place.dataset.crosshair = voxel.join(" ");
  }

  describe(data) {
    const [r, a, s] = data.mm, value = data.values?.[0]?.value;
    const side = (v, plus, minus) => `${Math.abs(v).toFixed(1)} mm ${v >= 0 ? plus : minus}`;
    const grey = value === undefined ? "" : `, value ${Number(value.toPrecision(4))}`;
    return `${side(r, "right", "left")}, ${side(a, "anterior", "posterior")}, ${side(s, "up", "down")}${grey}`;
  }

  controls() {
    const find = (name) => this.stage.querySelector(`.${name}`), {image, prediction, reference} = this.parts;
    const [low, high] = [find("low"), find("high")];
    low.value = Number(this.window[0].toPrecision(4)); high.value = Number(this.window[1].toPrecision(4));
    low.onchange = () => image.change("cal_min", Number(low.value));
    high.onchange = () => image.change("cal_max", Number(high.value));
    find("opacity").oninput = (e) => prediction.change("opacity", Number(e.target.value));
    if (reference) find("reference-opacity").oninput = (e) => reference.change("opacity", Number(e.target.value));
    find("outline").onchange = (e) => this.model.change("overlay_outline_width", e.target.checked ? 1 : 0);
    find("layout").onchange = (e) => {
      this.model.change("opts", {...this.model.get("opts"), sliceType: Number(e.target.value)});
      this.model.tell("update_gl_volume");
    };
  }

  close() {
    this.stage.hidden = true;
    this.place.querySelector(".open").textContent = "Open the viewer";
    open = null;
  }
}

for (const place of document.querySelectorAll(".viewer")) {
  const viewer = new Viewer(place), section = place.closest(".case");
  const failed = (error) => { place.querySelector(".location").textContent = `the viewer cannot be shown here: ${error.message}`; };
  for (const link of section.querySelectorAll(".jump")) {
    link.addEventListener("click", (event) => { event.preventDefault(); viewer.show(link.dataset.voxel.split(" ").map(Number)).catch(failed); });
  }
  for (const figure of section.querySelectorAll("figure")) {
    figure.addEventListener("click", () => {
      const voxel = viewer.first(), axis = Number(figure.dataset.axis);
      voxel[axis] = Number(figure.dataset.index);
      viewer.show(voxel).catch(failed);
    });
  }
  place.querySelector(".open").addEventListener("error", failed);
}
window.addEventListener("unhandledrejection", (event) => {
  const place = document.querySelector(".stage:not([hidden]) .location");
  if (place) place.textContent = `the viewer cannot be shown here: ${event.reason?.message ?? event.reason}`;
});
