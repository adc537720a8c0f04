"use strict";
// A map of pictures: dots that become thumbnails when few are in sight. All state is in `start`.
(() => {
  const MARGIN = 28, LEAST = 20, MANY = 4000, DEEPEST = 60, CELLS = 64, EXTENT = 10000, LABEL = "600 13px system-ui, sans-serif";
  const reach = { mouse: 14, pen: 18, touch: 28 };
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function start(figure) {
    const find = (name) => figure.querySelector(`.map-${name}`);
    const { x, y, label, names, classes, anchors, side, columns } = JSON.parse(find("data").textContent);
    const stage = find("stage"), canvas = find("canvas"), ring = find("ring"), tip = find("tip");
    const thumb = find("thumb"), sheet = find("sheet"), status = find("status");
    const boxes = [...figure.querySelectorAll(".map-filter input")];
    const count = x.length, hidden = new Set(), pen = canvas.getContext("2d");
    const fingers = new Map(), gap = usualGap();
    let width = 0, height = 0, whole = 1, scale = 1, left = 0, top = 0, density = 1;
    let colours = {}, chosen = -1, pending = false, moved = false;

    const shown = (i) => !hidden.has(label[i]);
    const across = (i) => left + x[i] * scale, down = (i) => top + y[i] * scale;
    const inside = (i) => across(i) > -20 && across(i) < width + 20 && down(i) > -20 && down(i) < height + 20;
    const hue = (i) => (label[i] < 0 ? "none" : label[i] % 10);

    const buckets = Array.from({ length: CELLS * CELLS }, () => []);
    const cell = (value) => Math.max(0, Math.min(CELLS - 1, Math.floor((value * CELLS) / EXTENT)));
    for (let i = 0; i < count; i++) buckets[cell(y[i]) * CELLS + cell(x[i])].push(i);

    function nearest(px, py, radius) {
      const cx = (px - left) / scale, cy = (py - top) / scale, r = radius / scale;
      let best = -1, least = r * r;
      for (let row = cell(cy - r); row <= cell(cy + r); row++)
        for (let column = cell(cx - r); column <= cell(cx + r); column++)
          for (const i of buckets[row * CELLS + column]) {
            const far = (x[i] - cx) ** 2 + (y[i] - cy) ** 2;
            if (far <= least && shown(i)) { best = i; least = far; }
          }
      return best;
    }

    // The room of a thumbnail, in units: a few times what the nearest others are apart, so that most show.
    function usualGap() {
      const gaps = [];
      for (let i = 0; i < count; i += Math.ceil(count / 300)) {
        let least = Infinity;
        for (let j = 0; j < count; j++) if (j !== i) least = Math.min(least, (x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2);
        gaps.push(Math.sqrt(least));
      }
      return 3 * gaps.sort((a, b) => a - b)[gaps.length >> 1];
    }

    function readColours() {
      const style = getComputedStyle(figure);
      colours = { paper: style.getPropertyValue("--paper"), ink: style.getPropertyValue("--ink") };
      for (const name of ["none", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]) colours[name] = style.getPropertyValue(`--hue-${name}`);
    }

    function draw() {
      pending = false;
      pen.setTransform(density, 0, 0, density, 0, 0);
      pen.clearRect(0, 0, width, height);
      const seen = [];
      for (let i = 0; i < count; i++) if (shown(i) && inside(i)) seen.push(i);
      const size = Math.min(72, 2 * side, gap * scale);
      if (size >= Math.min(LEAST, side) && sheet.complete) drawThumbnails(seen, size); else { drawDots(seen); drawLabels(); }
      place();
    }

    // One path a class: far faster than a call a dot. Thousands at once are squares of two pixels.
    function drawDots(seen) {
      const radius = Math.min(5, (count > 2000 ? 2 : 3) * Math.sqrt(Math.sqrt(scale / whole))), kinds = new Map();
      for (const i of seen) { if (kinds.has(label[i])) kinds.get(label[i]).push(i); else kinds.set(label[i], [i]); }
      pen.globalAlpha = 0.8;
      for (const [kind, members] of kinds) {
        const shape = Math.floor(Math.max(0, kind) / 10) % 3;
        pen.fillStyle = pen.strokeStyle = colours[hue(members[0])];
        pen.lineWidth = radius * 0.6;
        pen.beginPath();
        for (const i of members) {
          const px = across(i), py = down(i);
          if (seen.length > MANY || shape === 2) pen.rect(px - radius * 0.9, py - radius * 0.9, radius * 1.8, radius * 1.8);
          else { pen.moveTo(px + radius, py); pen.arc(px, py, radius, 0, 7); }
        }
        if (shape === 1 && seen.length <= MANY) pen.stroke(); else pen.fill();
      }
      pen.globalAlpha = 1;
    }

    function drawThumbnails(seen, size) {
      pen.imageSmoothingEnabled = side > 32;
      for (const i of seen) {
        const px = Math.round(across(i) - size / 2), py = Math.round(down(i) - size / 2);
        pen.fillStyle = colours[hue(i)];
        pen.fillRect(px - 2, py - 2, size + 4, size + 4);
        pen.drawImage(sheet, (i % columns) * side, Math.floor(i / columns) * side, side, side, px, py, size, size);
      }
    }

    function drawLabels() {
      const taken = [];
      pen.font = LABEL; pen.textAlign = "center"; pen.textBaseline = "middle"; pen.lineJoin = "round";
      for (const [name, ax, ay] of anchors) {
        const inSight = left + ax * scale > 0 && left + ax * scale < width;
        if (hidden.has(name) || !inSight) continue;
        const half = pen.measureText(classes[name]).width / 2;
        const px = Math.max(half + 4, Math.min(width - half - 4, left + ax * scale)), py = top + ay * scale;
        if (taken.some(([qx, qy, other]) => Math.abs(px - qx) < half + other + 4 && Math.abs(py - qy) < 16)) continue;
        taken.push([px, py, half]);
        pen.strokeStyle = colours.paper; pen.lineWidth = 4; pen.strokeText(classes[name], px, py);
        pen.fillStyle = colours.ink; pen.fillText(classes[name], px, py);
      }
    }

    const redraw = () => { if (!pending) { pending = true; requestAnimationFrame(draw); } };

    function place() {
      const at = chosen >= 0 && shown(chosen) && inside(chosen);
      ring.hidden = tip.hidden = !at;
      if (!at) return;
      const px = across(chosen), py = down(chosen), box = tip.getBoundingClientRect();
      ring.style.transform = `translate(${px - 8}px, ${py - 8}px)`;
      const tx = Math.max(4, Math.min(width - box.width - 4, px + 14));
      const ty = py + 14 + box.height > height ? Math.max(4, py - box.height - 14) : py + 14;
      tip.style.transform = `translate(${tx}px, ${ty}px)`;
    }

    function choose(i) {
      if (i === chosen) return;
      chosen = i;
      status.textContent = "";
      if (i >= 0) {
        const kind = label[i] < 0 ? "" : classes[label[i]];
        find("name").textContent = names[i];
        find("class").textContent = kind;
        const brush = thumb.getContext("2d");
        brush.imageSmoothingEnabled = side > 32;
        brush.clearRect(0, 0, thumb.width, thumb.height);
        brush.drawImage(sheet, (i % columns) * side, Math.floor(i / columns) * side, side, side, 0, 0, thumb.width, thumb.height);
        tip.hidden = false;
        status.textContent = kind ? `${names[i]}, ${kind}` : names[i];
      }
      place();
    }

    function settle() {
      const middle = (EXTENT * scale) / 2;
      if (scale <= whole * 1.001) { scale = whole; left = width / 2 - middle; top = height / 2 - middle; }
      left = Math.min(width * 0.7, Math.max(width * 0.3 - EXTENT * scale, left));
      top = Math.min(height * 0.7, Math.max(height * 0.3 - EXTENT * scale, top));
      stage.classList.toggle("zoomed", scale > whole);
      redraw();
    }

    function zoom(factor, px = width / 2, py = height / 2) {
      const next = Math.max(whole, Math.min(whole * DEEPEST, scale * factor));
      left = px - ((px - left) * next) / scale;
      top = py - ((py - top) * next) / scale;
      scale = next;
      settle();
    }

    function resize() {
      const box = stage.getBoundingClientRect();
      if (!box.width || !box.height) return;
      const depth = scale / whole, cx = (width / 2 - left) / scale, cy = (height / 2 - top) / scale, first = !width;
      width = box.width; height = box.height; density = Math.min(3, devicePixelRatio || 1);
      canvas.width = Math.round(width * density); canvas.height = Math.round(height * density);
      whole = (Math.min(width, height) - 2 * MARGIN) / EXTENT;
      scale = first ? whole : whole * depth;
      if (!first) { left = width / 2 - cx * scale; top = height / 2 - cy * scale; }
      settle();
    }

    const position = (event) => { const box = stage.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };

    stage.addEventListener("wheel", (event) => {
      if (event.deltaY > 0 && scale <= whole) return; // the whole map in sight: the page scrolls on
      event.preventDefault();
      zoom(Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) * (event.ctrlKey ? 0.01 : 0.004)), ...position(event));
    }, { passive: false });

    stage.addEventListener("pointerdown", (event) => {
      if (event.target.closest("button")) return;
      fingers.set(event.pointerId, position(event));
      moved = fingers.size > 1;
      stage.setPointerCapture(event.pointerId);
    });
    stage.addEventListener("pointermove", (event) => {
      const [px, py] = position(event), before = fingers.get(event.pointerId);
      if (!before) { choose(nearest(px, py, reach[event.pointerType] || 14)); return; }
      if (fingers.size === 1) {
        if (!moved && Math.hypot(px - before[0], py - before[1]) < 5) return;
        moved = true; left += px - before[0]; top += py - before[1]; settle();
      } else {
        const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
        const apart = (a) => Math.max(1, Math.hypot(a[0] - other[0], a[1] - other[1]));
        zoom(apart([px, py]) / apart(before), (px + other[0]) / 2, (py + other[1]) / 2);
      }
      fingers.set(event.pointerId, [px, py]);
    });
    const lift = (event) => {
      if (event.type === "pointerup" && fingers.has(event.pointerId) && !moved) choose(nearest(...position(event), reach[event.pointerType] || 14));
      fingers.delete(event.pointerId);
    };
    stage.addEventListener("pointerup", lift);
    stage.addEventListener("pointercancel", lift);
    stage.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse" && !fingers.size) choose(-1); });

    function step(towards) {
      let best = -1, least = Infinity;
      const [dx, dy] = towards, fromX = chosen < 0 ? (width / 2 - left) / scale : x[chosen], fromY = chosen < 0 ? (height / 2 - top) / scale : y[chosen];
      for (let i = 0; i < count; i++) {
        if (i === chosen || !shown(i)) continue;
        const ahead = (x[i] - fromX) * dx + (y[i] - fromY) * dy, aside = Math.abs((x[i] - fromX) * dy) + Math.abs((y[i] - fromY) * dx);
        const far = chosen < 0 ? Math.hypot(ahead, aside) : ahead > 0 && aside <= ahead ? ahead + 2 * aside : Infinity;
        if (far < least) { best = i; least = far; }
      }
      if (best < 0) return;
      if (across(best) < MARGIN || across(best) > width - MARGIN || down(best) < MARGIN || down(best) > height - MARGIN) {
        left += width / 2 - across(best); top += height / 2 - down(best); settle();
      }
      choose(best);
    }
    stage.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const keys = {
        "+": () => zoom(1.5, ...middle()), "=": () => zoom(1.5, ...middle()), "-": () => zoom(1 / 1.5, ...middle()),
        0: () => zoom(0), Escape: () => choose(-1),
      };
      const act = arrows[event.key] ? () => step(arrows[event.key]) : keys[event.key];
      if (act) { event.preventDefault(); act(); }
    });
    const middle = () => (chosen >= 0 ? [across(chosen), down(chosen)] : [width / 2, height / 2]);
    find("in").addEventListener("click", () => zoom(1.6));
    find("out").addEventListener("click", () => zoom(1 / 1.6));
    find("whole").addEventListener("click", () => zoom(0));

    function filter() {
      hidden.clear();
      for (const box of boxes) if (!box.checked) hidden.add(Number(box.value));
      if (chosen >= 0 && !shown(chosen)) choose(-1);
      redraw();
    }
    boxes.forEach((box) => box.addEventListener("change", filter));
    for (const [name, checked] of [["all", true], ["none", false]])
      find(name)?.addEventListener("click", () => { boxes.forEach((box) => { box.checked = checked; }); filter(); });

    figure.classList.add("live");
    thumb.width = thumb.height = side * Math.max(1, Math.round(96 / side));
    readColours();
    new ResizeObserver(resize).observe(stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); redraw(); });
    sheet.addEventListener("load", redraw);
  }
  document.querySelectorAll(".map").forEach(start);
})();
