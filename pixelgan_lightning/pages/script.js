// What a pointer finds in curves and points. Without it the page shows the same pictures.
"use strict";
for (const plot of document.querySelectorAll(".plot")) {
  const source = plot.querySelector('script[type="application/json"]');
  if (!source) continue;
  const content = JSON.parse(source.textContent), svg = plot.querySelector("svg");
  const tip = document.createElement("div");
  tip.className = "tip"; tip.hidden = true; plot.append(tip);
  const show = (event, text, image) => {
    tip.replaceChildren();
    if (image) { const picture = new Image(); picture.src = image; picture.alt = ""; tip.append(picture); }
    tip.append(text); tip.hidden = false;
    const box = plot.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    tip.style.left = Math.max(0, Math.min(x + 14, box.width - tip.offsetWidth)) + "px";
    tip.style.top = (y > box.height / 2 ? y - tip.offsetHeight - 12 : y + 16) + "px";
  };
  const hide = () => { tip.hidden = true; };
  plot.addEventListener("pointerleave", hide);
  if (plot.dataset.kind === "curves") {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "axis"); line.setAttribute("y1", 6); line.setAttribute("y2", 184);
    svg.addEventListener("pointermove", event => {
      const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
      const near = content.map(curve => curve.points.reduce((a, b) => Math.abs(b[2] - x) < Math.abs(a[2] - x) ? b : a));
      const first = near.reduce((a, b) => Math.abs(b[2] - x) < Math.abs(a[2] - x) ? b : a);
      line.setAttribute("x1", first[2]); line.setAttribute("x2", first[2]); svg.append(line);
      const rows = content.map((curve, i) => near[i][0] === first[0] ? `${curve.name}: ${near[i][1]}` : "").filter(Boolean);
      show(event, `batch ${Math.round(first[0]) + 1}\n${rows.join("\n")}`);
    });
    svg.addEventListener("pointerleave", () => { line.remove(); hide(); });
  } else {
    const points = [...svg.querySelectorAll(".point")], keys = [...plot.querySelectorAll("button")];
    let chosen = null, near = null;
    const mark = () => {
      for (const point of points) point.classList.toggle("faded", chosen !== null && point.dataset.group !== chosen);
      for (const key of keys) {
        key.classList.toggle("off", chosen !== null && key.dataset.group !== chosen);
        key.setAttribute("aria-pressed", String(key.dataset.group === chosen));
      }
    };
    for (const key of keys) key.addEventListener("click", () => {
      chosen = chosen === key.dataset.group ? null : key.dataset.group;
      mark();
    });
    mark();
    svg.addEventListener("pointermove", event => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      let best = null, distance = 14 * 14;
      for (const point of points) {
        if (point.classList.contains("faded")) continue;
        const d = (point.cx.baseVal.value - at.x) ** 2 + (point.cy.baseVal.value - at.y) ** 2;
        if (d < distance) { best = point; distance = d; }
      }
      if (near) near.classList.remove("near");
      near = best;
      if (!best) { hide(); return; }
      best.classList.add("near");
      show(event, content.notes[best.dataset.i], content.images[best.dataset.i]);
    });
  }
}
