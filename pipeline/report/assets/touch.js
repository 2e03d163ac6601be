// Fingers on a figure: one reads its values, two zoom all figures.
"use strict";
function setTouch(plot, zoomTo) { // zoomTo takes the range of x that the fingers want
  const {over} = plot, fingers = new Map(); // x of each finger by its pointer, in pixels
  const logarithmic = plot.scales.x.distr === 3;
  const [flat, back] = logarithmic ? [Math.log, Math.exp] : [value => value, value => value];
  let held = null; // the values under the two fingers, which stay under them
  const places = () => [...fingers.values()].sort((one, other) => one - other);
  const take = event => {
    const box = over.getBoundingClientRect();
    fingers.set(event.pointerId, event.clientX - box.left);
    if (fingers.size === 1) plot.setCursor({left: event.clientX - box.left, top: event.clientY - box.top});
  };
  const hold = () => { held = fingers.size === 2 ? places().map(place => flat(plot.posToVal(place, "x"))) : null; };
  const drop = event => { if (fingers.delete(event.pointerId)) hold(); };
  over.addEventListener("pointerdown", event => {
    if (event.pointerType !== "touch") return;
    take(event);
    hold();
  });
  over.addEventListener("pointermove", event => {
    if (!fingers.has(event.pointerId)) return;
    take(event);
    const [left, right] = places();
    if (!held || right - left < 10) return;
    const perPixel = (held[1] - held[0]) / (right - left), first = held[0] - left * perPixel;
    zoomTo([back(first), back(first + over.clientWidth * perPixel)]);
  });
  for (const end of ["pointerup", "pointercancel"]) over.addEventListener(end, drop);
}
