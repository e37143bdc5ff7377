// The pointer or the arrow keys select a picture; the panel shows it and its nearest neighbours.
const data = JSON.parse(document.getElementById("map-data").textContent);
const svg = document.querySelector(".map svg");
const points = document.getElementById("points");
const panel = document.getElementById("pointed");
const places = data.points.map((_, place) => {
  const use = document.getElementById("point-" + place);
  return { use, x: use.x.baseVal.value, y: use.y.baseVal.value };
});
const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
ring.setAttribute("r", 10);
ring.setAttribute("fill", "none");
ring.setAttribute("stroke", "currentColor");
ring.setAttribute("stroke-width", 2.5);
let chosen = -1;

const element = (name, text, className) => {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
};
const thumbnail = (place) => {
  const made = element("span", "", "thumb");
  const rows = Math.max(Math.ceil(places.length / data.columns), 2);
  made.style.backgroundImage = `url(${document.getElementById("sheet").src})`;
  made.style.backgroundSize = `${100 * data.columns}% ${100 * Math.ceil(places.length / data.columns)}%`;
  made.style.backgroundPosition =
    `${(100 * (place % data.columns)) / (data.columns - 1)}% ${(100 * Math.floor(place / data.columns)) / (rows - 1)}%`;
  return made;
};
const name = (place) => data.classes[data.points[place].class];
const right = (place, other) => data.points[place].class === data.points[other].class;

function choose(place) {
  if (place === chosen || !places[place]) return;
  if (chosen >= 0) places[chosen].use.setAttribute("aria-selected", "false");
  chosen = place;
  const { id, path, near } = data.points[place];
  places[place].use.setAttribute("aria-selected", "true");
  points.setAttribute("aria-activedescendant", "point-" + place);
  ring.setAttribute("cx", places[place].x);
  ring.setAttribute("cy", places[place].y);
  if (!ring.parentNode) svg.append(ring);
  const list = element("ul");
  for (const [other, distance] of near) {
    const item = element("li");
    const label = element("span", "", right(place, other) ? "right" : "wrong");
    label.append(element("b", `${right(place, other) ? "✓" : "✗"} ${name(other)}`));
    item.append(thumbnail(other), label, element("br"), distance.toFixed(2));
    list.append(item);
  }
  const caption = element("p");
  caption.append(element("b", name(place)), element("br"), element("code", path), ` id ${id}`);
  panel.replaceChildren(thumbnail(place), caption);
  if (near.length) panel.append(element("p", near.length < 5 && places.length > 5
      ? "Those of its 5 nearest unseen pictures that are on the map, with their distances:"
      : "Nearest unseen pictures, with their distances:"), list);
}

function nearest(x, y, allowed) {
  let best = -1, least = Infinity;
  places.forEach((point, place) => {
    const far = Math.hypot(point.x - x, point.y - y);
    if (far < least && allowed(point, place)) [best, least] = [place, far];
  });
  return best;
}

// A picture is ahead if it is farther along the arrow than across it.
const ahead = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
points.addEventListener("keydown", (event) => {
  const direction = ahead[event.key];
  if (direction) {
    const from = places[Math.max(chosen, 0)];
    choose(nearest(from.x, from.y, (to, place) => {
      const [dx, dy] = [to.x - from.x, to.y - from.y];
      const along = dx * direction[0] + dy * direction[1];
      return place !== chosen && along > 0 && along >= Math.abs(dx * direction[1] + dy * direction[0]);
    }));
  } else if (event.key === "PageDown") choose(Math.min(chosen + 1, places.length - 1));
  else if (event.key === "PageUp") choose(Math.max(chosen - 1, 0));
  else if (event.key === "Home") choose(0);
  else if (event.key === "End") choose(places.length - 1);
  else return;
  event.preventDefault();
});
points.addEventListener("focus", () => choose(Math.max(chosen, 0)));
const pointed = (event) => {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  choose(nearest(at.x, at.y, (to) => Math.hypot(to.x - at.x, to.y - at.y) < 25));
};
svg.addEventListener("pointermove", pointed);
svg.addEventListener("pointerdown", pointed);

svg.setAttribute("role", "group");
points.setAttribute("role", "listbox");
points.setAttribute("tabindex", "0");
points.setAttribute("aria-label", "Test pictures; arrow keys go from one to the next");
places.forEach(({ use }, place) => {
  const near = data.points[place].near.map(([other]) => name(other)).join(", ");
  use.setAttribute("role", "option");
  use.setAttribute("aria-selected", "false");
  use.setAttribute("aria-label", `${name(place)}, picture ${data.points[place].id}` + (near && `; nearest: ${near}`));
});
choose(0);
