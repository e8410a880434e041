// NiiVue viewer of the volumes in this page. Its script is for notebooks, where it reads its data from a model; `Stand` replaces that model.
"use strict";

const COLOURS = ["#e69f00", "#cc79a7", "#f0e442", "#009e73", "#d55e00", "#ffffff"];  // as in report.css; blue is the reference
const REFERENCE_COLOUR = "#56b4e9";
const RULER_COLOUR = [1, 0.85, 0.2, 1];
const LETTER_PX = 16, SMALLEST_LETTER_PX = 8, LETTERS_PER_SIDE = 2.5;  // a letter stays in its own half of the slice
const LEAST_SURFACE_FILL = 0.6;  // a surface without fill would show no mask
const GAP_PX = 6;  // between the slices of three planes
const IN_PLANE = {0: [0, 1], 1: [0, 2], 2: [1, 2]};  // axes of an axial, coronal and sagittal slice

const NIFTI_FLOATS = {vox_offset: 108, scl_slope: 112, scl_inter: 116};  // places of numbers in the header
const DRAG = {none: 0, ruler: 2, pan: 3, crosshair: 8};  // NiiVue's numbers

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

let niivue = null, open = null, count = 0;  // NiiVue's parts, the viewer that is open, and a number for names

async function begin() {
  const url = URL.createObjectURL(new Blob([await unpacked(NIIVUE_GZ)], {type: "text/javascript"}));
  const module = await import(url), widget = module.default;
  URL.revokeObjectURL(url);
  const model = new Stand("viewer", {
    height: 400, volumes: [], meshes: [], this_model_id: "", scene: {}, graph: {}, draw_lut: null, draw_opacity: 0.8,
    draw_fill_overwrites: true, background_masks_overlays: 0, overlay_outline_width: 0, overlay_alpha_shader: 1,
    opts: {
      isRadiologicalConvention: true, sagittalNoseLeft: true, multiplanarForceRender: false, dragAndDropEnabled: false,
      isNearestInterpolation: false, crosshairWidth: 0, dragMode: 0, fontColor: [0.85, 0.85, 0.85, 1],
      isAntiAlias: false, logLevel: "error", loadingText: "", showLegend: false, isColorbar: false, multiplanarShowRender: 0, multiplanarPadPixels: GAP_PX,
      // Letters in the corners, "RA": NiiVue adds its padding twice to letters at the middle of a side, which moved R to the left.
      isCornerOrientationText: true, isOrientationTextVisible: true, fontMinPx: LETTER_PX, fontSizeScaling: 0, sliceType: 3,
      rulerColor: RULER_COLOUR, rulerWidth: 2, measureLineColor: RULER_COLOUR, measureTextColor: [1, 1, 1, 1],
      viewModeHotKey: "",  // the list of views is the only way to change the view
    },
  });
  const quiet = console.log;
  console.log = () => {};  // the widget logs each step
  try { await widget.initialize({model}); } finally { console.log = quiet; }
  const {instance} = module;  // `initialize` creates it
  instance.opts.mouseEventConfig = {leftButton: {primary: DRAG.crosshair, withShift: DRAG.pan}, rightButton: DRAG.none, centerButton: DRAG.pan};
  return {widget, model, instance, layer: null};
}

const numbersOf = (text) => text.split(" ").map(Number);

let turn = Promise.resolve();  // cases are shown one after the other: the widget cannot load two at the same time

class Viewer {
  constructor(place) {
    this.place = place;
    this.stage = place.querySelector(".stage");
    this.section = place.closest(".case");
    this.button = this.section.querySelector(".open");
    const numbers = (name) => numbersOf(place.dataset[name]);
    this.shape = numbers("shape"); this.factors = numbers("factors");
    this.start = numbers("start"); this.whole = numbers("whole");
    this.images = [...place.querySelectorAll("script.image")];
    this.window = numbersOf(this.images[0].dataset.window);
    this.n = place.dataset.labels.split("|").length;
    this.listen();
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
        opacity: isImage ? 1 : 0, frame_4d: 0, colorbar_visible: false, colormap_type: 0,
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
      this.section.scrollIntoView({block: "start"});
    });
    turn = shown.catch((error) => {
      open = null;
      this.reveal(true);
      this.stage.querySelector(".location").textContent = `The viewer cannot be shown in this browser: ${error.message}`;
    });
    return turn;
  }

  async load() {
    open?.close();
    open = this;
    this.isLoaded = false;
    this.reveal(true);
    const location = this.stage.querySelector(".location");
    location.textContent = "loading";
    niivue ??= begin();
    const opened = await niivue, {widget, model} = opened;
    this.model = model;
    this.instance = opened.instance;
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
    opened.layer ??= new Layer(opened.instance);
    this.layer = opened.layer;
    this.showMasks(order);
    model.onSend = (m) => {
      if (m.event === "location_change") location.textContent = this.describe(m.data);
      if (m.event === "drag_release" && this.isMeasuring) location.textContent = `ruler: ${m.data.mm_length.toFixed(1)} mm`;
    };
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

  turned(at) {
    return [0, 1, 2].map((a) => {
      const own = this.ownAxis(a);
      return own.isSame ? at[own.axis] : 1 - at[own.axis];
    });
  }

  ownAxis(a) {  // NiiVue may order the axes of a scan at 45 degrees differently: find the axis of the file for one of its axes
    const {affine} = this.parts.image.get("hdr"), matrix = this.parts.image.get("mat_ras"), axes = [0, 1, 2];
    const own = (b) => axes.map((r) => affine[r][b]), its = axes.map((r) => matrix[4 * r + a]);
    const dot = (u, v) => axes.reduce((sum, r) => sum + u[r] * v[r], 0);
    const cosines = axes.map((b) => dot(its, own(b)) / Math.sqrt(dot(its, its) * dot(own(b), own(b))));
    const axis = axes.reduce((best, b) => Math.abs(cosines[b]) > Math.abs(cosines[best]) ? b : best);
    return {axis, isSame: cosines[axis] > 0};
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

  showMasks(order) {
    const volumes = this.instance.volumes, base = volumes[0];
    this.layer.set({
      masks: order.slice(1).map((kind, k) => ({
        values: volumes[k + 1].img2RAS(),
        colours: kind === "reference" ? [REFERENCE_COLOUR] : COLOURS,
        isDashed: kind === "prediction" && order.includes("reference"),
        isShown: () => this.section.querySelector(`.show-${kind}`).checked,
      })),
      shape: base.dimsRAS.slice(1, 4),
      spacing: base.pixDimsRAS.slice(1, 4),
      numberOf: (axis) => this.numberOf(axis),
    });
  }

  numberOf(axis) {  // "12/34", counted over the complete scan from the left, posterior or inferior
    const own = this.ownAxis(axis), index = this.layer.index(axis);
    const forward = own.isSame ? index : this.shape[own.axis] - 1 - index;
    return `${this.start[own.axis] + forward * this.factors[own.axis] + 1}/${this.whole[own.axis]}`;
  }

  describe(data) {
    const [r, a, s] = data.mm, value = data.values?.[0]?.value;
    const side = (v, plus, minus) => `${Math.abs(v).toFixed(1)} mm ${v >= 0 ? plus : minus}`;
    const grey = value === undefined ? "" : `, value ${Number(value.toPrecision(4))}`;
    const slices = ["axial", "coronal", "sagittal"].map((plane, k) => `${plane} ${this.numberOf(2 - k)}`).join(", ");
    return `${side(r, "right", "left")}, ${side(a, "anterior", "posterior")}, ${side(s, "superior", "inferior")}${grey}, ${slices}`;
  }

  contourBoxes() { return [...this.section.querySelectorAll(".legend input")]; }

  find(name) { return this.stage.querySelector(`.${name}`); }

  controls() {  // all cases share one widget: reset its settings for each case
    for (const name of ["low", "high"]) this.find(name).onchange = () => this.setWindow(Number(this.find("low").value), Number(this.find("high").value));
    this.find("preset").onchange = ({target}) => { if (target.value) this.setWindow(...numbersOf(target.value)); };
    if (this.find("channels")) this.find("channels").onchange = ({target}) => this.showChannel(Number(target.value));
    this.find("opacity").oninput = () => this.fill();
    for (const box of this.contourBoxes()) box.onchange = () => this.layer.draw();
    this.find("crosshair").onchange = ({target}) => { this.layer.hasCrosshair = target.checked; this.layer.draw(); };
    this.find("ruler").onchange = ({target}) => this.measure(target.checked);
    this.find("reset").onclick = () => this.reset();
    this.find("help").onclick = ({target}) => {
      this.find("keys").hidden = !this.find("keys").hidden;
      target.setAttribute("aria-expanded", String(!this.find("keys").hidden));
    };
    this.find("layout").onchange = ({target}) => {
      this.model.change("opts", {...this.model.get("opts"), sliceType: Number(target.value)});
      this.letters();
      this.fill();
      this.model.tell("update_gl_volume");
    };
    if (this.find("channels")) this.find("channels").value = "0";
    this.offerWindows(0);
    this.reset();
  }

  offerWindows(number) {
    const {window: first, range} = this.images[number].dataset, {options} = this.find("preset");
    [options[0].value, options[1].value] = [first, range];
    this.window = numbersOf(first);
  }

  async showChannel(number) {  // only the voxels change: position, zoom and contours stay
    const buffer = await unpacked(this.images[number].textContent.trim()), header = new DataView(buffer), [volume] = this.instance.volumes;
    const {vox_offset: place, scl_slope: slope, scl_inter: intercept} = NIFTI_FLOATS;
    volume.img = new Int16Array(buffer, header.getFloat32(place, true));
    [volume.hdr.scl_slope, volume.hdr.scl_inter] = [header.getFloat32(slope, true), header.getFloat32(intercept, true)];
    this.offerWindows(number);
    this.setWindow(...this.window);
    this.model.tell("move_crosshair_in_vox", 0, 0, 0);  // the value at the crosshair is another one
  }

  reset() {
    this.find("opacity").value = 0;
    for (const box of [...this.contourBoxes(), this.find("crosshair")]) box.checked = true;
    this.layer.hasCrosshair = true;
    this.find("ruler").checked = false;
    this.measure(false);
    this.instance.document.completedMeasurements.length = 0;
    this.instance.scene.pan2Dxyzmm = [0, 0, 0, 1];
    this.setWindow(...this.window);
    this.find("layout").value = "3";
    this.find("layout").onchange({target: this.find("layout")});
  }

  fill() {
    const least = this.find("layout").value === "4" ? LEAST_SURFACE_FILL : 0;
    this.parts.prediction.change("opacity", Math.max(least, Number(this.find("opacity").value)));
  }

  setWindow(low, high) {
    const {image} = this.parts, [volume] = this.instance.volumes;
    if (!(high > low)) high = low + 1e-6;
    for (const [name, value] of [["cal_min", low], ["cal_max", high]]) { image.set(name, value); volume[name] = value; }
    const short = (value) => Number(value.toPrecision(4));
    this.find("low").value = short(low);
    this.find("high").value = short(high);
    const same = [...this.find("preset").options].find((o) => o.value && o.value.split(" ").every((v, k) => short(Number(v)) === short([low, high][k])));
    this.find("preset").value = same?.value ?? "";
    if (this.isWaiting) return;
    this.isWaiting = true;  // one change of the picture for each frame, however fast the mouse is
    requestAnimationFrame(() => { this.isWaiting = false; if (open === this) { this.instance.refreshLayers(volume, 0); this.instance.drawScene(); } });
  }

  toggleContours() {
    const boxes = this.contourBoxes(), isShown = !boxes.some((box) => box.checked);
    for (const box of boxes) box.checked = isShown;
    this.layer.draw();
  }

  measure(isMeasuring) {
    this.isMeasuring = isMeasuring;
    this.instance.opts.mouseEventConfig.leftButton.primary = isMeasuring ? DRAG.ruler : DRAG.crosshair;
  }

  zoom(factor) {  // the crosshair stays at its place
    const {scene} = this.instance, mm = this.instance.frac2mm(scene.crosshairPos), before = scene.pan2Dxyzmm[3];
    const after = Math.min(20, Math.max(0.5, before * factor));
    const moved = [0, 1, 2].map((a) => scene.pan2Dxyzmm[a] + (before - after) * mm[a]);
    scene.pan2Dxyzmm = [...moved, after];
    this.instance.drawScene();
  }

  scroll(step) {  // along the axis of the view; of three planes, the axial slice
    const axis = {0: 2, 1: 1, 2: 0}[this.find("layout").value] ?? 2;
    this.instance.moveCrosshairInVox(...[0, 1, 2].map((a) => a === axis ? step : 0));
  }

  listen() {
    const canvas = this.stage.querySelector(".canvas");
    let from = null;  // of a drag with the right button: the place and the window at its begin
    const stop = (event) => { event.preventDefault(); event.stopPropagation(); };
    canvas.addEventListener("mousedown", (event) => {
      if (event.button !== 2 || open !== this) return;
      stop(event);
      const {image} = this.parts;
      from = {x: event.clientX, y: event.clientY, low: image.get("cal_min"), high: image.get("cal_max")};
    }, true);
    window.addEventListener("mousemove", (event) => {
      if (!from) return;
      stop(event);
      const width = from.high - from.low, share = (pixels) => pixels / 300;
      const wider = width * 2 ** share(event.clientX - from.x), level = (from.low + from.high) / 2 + width * share(event.clientY - from.y);
      this.setWindow(level - wider / 2, level + wider / 2);
    }, true);
    window.addEventListener("mouseup", (event) => { if (from && event.button === 2) { from = null; stop(event); } }, true);
    canvas.addEventListener("contextmenu", stop, true);
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      stop(event);
      this.zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1);
    }, {capture: true, passive: false});
    for (const name of ["keydown", "keyup"]) {  // keys of NiiVue would change what the controls show
      canvas.addEventListener(name, (event) => {
        if (event.key === "Tab") return;
        event.stopPropagation();
        if (name === "keydown" && press(event)) event.preventDefault();
      }, true);
    }
  }

  key(key) {
    const toggle = (name) => { const box = this.find(name); box.checked = !box.checked; box.onchange({target: box}); };
    const view = (value) => { this.find("layout").value = value; this.find("layout").onchange({target: this.find("layout")}); };
    const action = {
      t: () => view("3"), a: () => view("0"), c: () => view("1"), s: () => view("2"), o: () => this.toggleContours(), x: () => toggle("crosshair"),
      m: () => toggle("ruler"), r: () => this.reset(), "+": () => this.zoom(1.2), "-": () => this.zoom(1 / 1.2),
      ArrowUp: () => this.scroll(1), ArrowDown: () => this.scroll(-1),
    }[key];
    action?.();
    return Boolean(action);
  }

  reveal(isShown) {
    this.stage.hidden = !isShown;
    this.section.classList.toggle("viewing", isShown);
    this.button.textContent = isShown ? "Close the viewer" : "Open the viewer";
  }

  close() {
    this.reveal(false);
    open = null;
  }
}

// --- the page ---------------------------------------------------------------------------------------------------------

const viewers = new Map();  // by the id of the section

const TYPING = "input:not([type=radio], [type=checkbox], [type=range]), select, textarea, dialog";

// Return whether a key did something: it belongs to the open viewer, or leads to another scan.
function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest(TYPING)) return false;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const sections = [...document.querySelectorAll("section.case")];
  const current = open?.section ?? sections.filter((section) => section.getBoundingClientRect().top <= 20).pop();  // the one that is looked at
  if (key === "n" && !current) {
    sections[0].scrollIntoView();
    return true;
  }
  const choice = current?.querySelectorAll("form.review input[type=radio]")[Number(key) - 1];
  const target = key === "n" ? current.querySelector(".next") : key === "p" ? current?.querySelector(".previous") : choice;
  if (target) {
    target.click();
    return true;
  }
  return Boolean(open?.isLoaded && open.key(key));
}

document.addEventListener("keydown", (event) => {
  const isScrolled = event.key.startsWith("Arrow");  // outside of the canvas, arrows move the page
  if (!isScrolled && press(event)) event.preventDefault();
});

for (const place of document.querySelectorAll(".viewer")) {
  const viewer = new Viewer(place), section = place.closest(".case");
  viewers.set(section.id, viewer);
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

for (const link of document.querySelectorAll(".case .previous, .case .next")) {
  link.addEventListener("click", () => { if (open) viewers.get(link.hash.slice(1))?.show(); });  // on a page of all scans
}
if (viewers.size === 1 && document.querySelectorAll("section.case").length === 1 && !table) [...viewers.values()][0].show();
