// Canvas over NiiVue's canvas: contours of the masks, crosshair, scale bar and slice numbers, as lines of a fixed width on the screen.
"use strict";

const LINE_PX = 1.5, DASH_PX = [7, 4], GAP_AT_CENTRE_PX = 10, TEXT_PX = 12;
const SMALLEST_TEXT_TILE_PX = 110;  // narrower slices have no scale bar and no number
const BARS_MM = [500, 200, 100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1];

// Segments of a contour in a cell of four pixel centres, by the sum of 1, 2, 4 and 8 for those in the mask, clockwise from the top left.
// 0 to 3 are the middles of the top, right, bottom and left edge. The mask is always on the same side: each end is the start of the next.
const SEGMENTS = [
  [], [[3, 0]], [[0, 1]], [[3, 1]], [[1, 2]], [[3, 0], [1, 2]], [[0, 2]], [[3, 2]],
  [[2, 3]], [[2, 0]], [[0, 1], [2, 3]], [[2, 1]], [[1, 3]], [[1, 0]], [[0, 3]], [],
];
const EDGE = [[1, 0], [2, 1], [1, 2], [0, 1]];  // in half pixels from the top left pixel centre of the cell

// Return the closed contour lines of each label, `at(u, v)` with 0 for none, as lists of points in pixels; a pixel is centred at + 0.5.
function contours(at, width, height) {
  const next = new Map(), stride = 2 * width + 4;
  const label = (u, v) => u >= 0 && v >= 0 && u < width && v < height ? at(u, v) : 0;
  for (let v = -1; v < height; v++) {
    for (let u = -1; u < width; u++) {
      const a = label(u, v), b = label(u + 1, v), c = label(u + 1, v + 1), d = label(u, v + 1);
      if (a === b && b === c && c === d) continue;
      const corners = [a, b, c, d];
      const place = (edge) => (2 * u + 2 + EDGE[edge][0]) + stride * (2 * v + 2 + EDGE[edge][1]);
      for (const own of new Set(corners)) {
        if (!own) continue;
        if (!next.has(own)) next.set(own, new Map());
        const code = corners.reduce((sum, corner, k) => sum + (corner === own ? 2 ** k : 0), 0);
        for (const [from, to] of SEGMENTS[code]) next.get(own).set(place(from), place(to));
      }
    }
  }
  return new Map([...next].map(([own, segments]) => [own, joined(segments, stride)]));
}

// Join segments, each by its start, to closed lines.
function joined(segments, stride) {
  const lines = [];
  while (segments.size) {
    const line = [], [first] = segments.keys();
    for (let place = first; segments.has(place);) {
      line.push([(place % stride) / 2 - 0.5, Math.floor(place / stride) / 2 - 0.5]);
      const following = segments.get(place);
      segments.delete(place);
      place = following;
    }
    lines.push(line);
  }
  return lines;
}

class Layer {
  constructor(niivue) {
    this.niivue = niivue;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "layer";
    niivue.canvas.parentNode.append(this.canvas);
    this.paths = new Map();
    this.hasCrosshair = true;
    const drawScene = niivue.drawScene;
    niivue.drawScene = (...given) => {
      const result = drawScene.apply(niivue, given);
      this.draw();
      return result;
    };
  }

  // Take the masks of a scan: a list of {values, colours, isDashed, isShown}, the first one is drawn first. `spacing` is in mm.
  set({masks, shape, spacing, numberOf}) {
    Object.assign(this, {masks, shape, spacing, numberOf});
    this.paths.clear();
  }

  // Return the slices on the canvas: axes to the right and down, and the place of a fraction of each axis in pixels of the canvas.
  tiles() {
    return this.niivue.screenSlices.flatMap((slice, number) => {
      if (slice.axCorSag > 2) return [];
      let [left, top, width, height] = slice.leftTopWidthHeight;
      if (width < 0) { left += width; width = -width; }
      const at = (share) => [left + share * width, top + share * height];
      const [a, b] = [at(0.25), at(0.75)].map(([x, y]) => this.niivue.screenXY2TextureFrac(x, y, number, false));
      const [across, down] = IN_PLANE[slice.axCorSag], axis = 3 - across - down;
      const scaleX = 0.5 * width / (b[across] - a[across]), scaleY = 0.5 * height / (b[down] - a[down]);
      if (!Number.isFinite(scaleX) || !Number.isFinite(scaleY)) return [];
      const x = (share) => left + 0.25 * width + (share - a[across]) * scaleX;
      const y = (share) => top + 0.25 * height + (share - a[down]) * scaleY;
      return [{left, top, width, height, across, down, axis, scaleX, scaleY, x, y}];
    });
  }

  index(axis) {
    return Math.min(this.shape[axis] - 1, Math.max(0, Math.floor(this.niivue.scene.crosshairPos[axis] * this.shape[axis])));
  }

  draw() {
    const {canvas} = this, source = this.niivue.canvas;
    if (canvas.width !== source.width || canvas.height !== source.height) [canvas.width, canvas.height] = [source.width, source.height];
    const context = canvas.getContext("2d", {willReadFrequently: true});  // in software: few lines, and often no GPU
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.masks) return;
    this.density = source.width / source.clientWidth || 1;
    for (const tile of this.tiles()) {
      context.save();
      context.beginPath();
      context.rect(tile.left, tile.top, tile.width, tile.height);
      context.clip();
      this.drawContours(context, tile);
      if (this.hasCrosshair) this.drawCrosshair(context, tile);
      if (tile.width > SMALLEST_TEXT_TILE_PX * this.density) this.drawTexts(context, tile);
      context.restore();
    }
  }

  drawContours(context, tile) {
    const index = this.index(tile.axis);
    const matrix = new DOMMatrix([
      tile.scaleX / this.shape[tile.across], 0, 0, tile.scaleY / this.shape[tile.down], tile.x(0), tile.y(0),
    ]);
    context.lineWidth = LINE_PX * this.density;
    this.masks.forEach((mask, number) => {
      if (!mask.isShown()) return;
      context.setLineDash(mask.isDashed ? DASH_PX.map((length) => length * this.density) : []);
      for (const [label, path] of this.pathsOf(number, tile, index)) {
        const placed = new Path2D();
        placed.addPath(path, matrix);
        context.strokeStyle = mask.colours[(label - 1) % mask.colours.length];
        context.stroke(placed);
      }
    });
  }

  pathsOf(number, {axis, across, down}, index) {
    const key = `${number} ${axis} ${index}`;
    if (!this.paths.has(key)) this.paths.set(key, this.trace(this.masks[number].values, axis, across, down, index));
    return this.paths.get(key);
  }

  trace(values, axis, across, down, index) {
    const steps = [1, this.shape[0], this.shape[0] * this.shape[1]], start = index * steps[axis];
    const [width, height] = [this.shape[across], this.shape[down]];
    const found = contours((u, v) => values[start + u * steps[across] + v * steps[down]], width, height);
    return [...found].sort(([a], [b]) => a - b).map(([label, lines]) => {
      const path = new Path2D();
      for (const line of lines) {
        line.forEach(([u, v], k) => k ? path.lineTo(u, v) : path.moveTo(u, v));
        path.closePath();
      }
      return [label, path];
    });
  }

  drawCrosshair(context, tile) {
    const [x, y] = [tile.x(this.niivue.scene.crosshairPos[tile.across]), tile.y(this.niivue.scene.crosshairPos[tile.down])];
    const gap = GAP_AT_CENTRE_PX * this.density;
    context.setLineDash([]);
    context.lineWidth = this.density;
    context.strokeStyle = "rgba(230, 230, 230, 0.7)";
    context.beginPath();
    for (const [from, to] of [[tile.left, x - gap], [x + gap, tile.left + tile.width]]) { context.moveTo(from, y); context.lineTo(Math.max(from, to), y); }
    for (const [from, to] of [[tile.top, y - gap], [y + gap, tile.top + tile.height]]) { context.moveTo(x, from); context.lineTo(x, Math.max(from, to)); }
    context.stroke();
  }

  scaleBar(tile) {  // the longest round length that takes at most a quarter of the slice's width
    const pxPerMm = Math.abs(tile.scaleX) / (this.shape[tile.across] * this.spacing[tile.across]);
    const mm = BARS_MM.find((length) => length * pxPerMm <= tile.width / 4);
    return mm && {mm, px: mm * pxPerMm};
  }

  drawTexts(context, tile) {
    const edge = 6 * this.density, bottom = tile.top + tile.height - edge, right = tile.left + tile.width - edge;
    context.setLineDash([]);
    context.font = `${TEXT_PX * this.density}px sans-serif`;
    context.fillStyle = context.strokeStyle = "#ffffff";
    context.shadowColor = "#000000";
    context.shadowBlur = 3 * this.density;
    context.textAlign = "left";
    context.fillText(this.numberOf(tile.axis), tile.left + edge, bottom);
    const bar = this.scaleBar(tile);
    if (!bar) return;
    context.lineWidth = 2 * this.density;
    context.beginPath();
    context.moveTo(right - bar.px, bottom);
    context.lineTo(right, bottom);
    context.stroke();
    context.textAlign = "right";
    context.fillText(`${bar.mm} mm`, right, bottom - edge);
  }
}
