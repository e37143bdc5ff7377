// The report's map, with the query and its nearest pictures on it.
import { $, drawn, make } from "./dom.js";

const SIDE = 620, MARGIN = 22;
const across = ({ x }) => MARGIN + x * (SIDE - 2 * MARGIN);
const down = ({ y }) => MARGIN + (1 - y) * (SIDE - 2 * MARGIN);

function look({ shape, color, filled }) {
  return filled ? { d: shape, fill: color } : { d: shape, fill: "none", stroke: color, "stroke-width": 1.8 };
}

/** Draws the map. Calls `chosen` with the id of a mark that is clicked. */
export function drawMap(map, chosen) {
  const svg = $("map").querySelector("svg");
  const points = map.points.map((point) => {
    const mark = drawn("path", { ...look(map.classes[point.class]), transform: `translate(${across(point)} ${down(point)})` });
    mark.append(drawn("title", {}));
    mark.firstChild.textContent = `${map.classes[point.class].label_name}, picture ${point.id}`;
    mark.addEventListener("click", () => chosen(point.id));
    return mark;
  });
  svg.querySelector(".points").replaceChildren(...points);
  $("map-how").textContent = `${map.points.length} test pictures, placed by ${map.method}.`;
  $("map").querySelector(".legend").replaceChildren(...map.classes.map((kind) => {
    const icon = drawn("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" });
    icon.append(drawn("path", look(kind)));
    return make("li", {}, icon, kind.label_name);
  }));
}

/** Marks the query on the map, and its nearest pictures with their ranks. */
export function drawMarks(map, answer) {
  const place = answer?.query.place;
  $("map").hidden = !map;
  const marks = [];
  if (map && place) {
    const near = answer.results.filter((result) => result.place).slice(0, 10);
    for (const result of near)
      marks.push(drawn("line", { class: "line", x1: across(place), y1: down(place), x2: across(result.place), y2: down(result.place) }));
    for (const result of [...near].reverse()) {
      const [x, y] = [across(result.place), down(result.place)];
      const text = drawn("text", { x, y });
      text.textContent = result.rank;
      marks.push(drawn("circle", { cx: x, cy: y, r: 9 }), text);
    }
    marks.push(drawn("path", { class: "query", d: "M0 -13L4 -4L13 0L4 4L0 13L-4 4L-13 0L-4 -4Z", transform: `translate(${across(place)} ${down(place)})` }));
  }
  $("map").querySelector(".marks").replaceChildren(...marks);
  const kinds = [...new Set(answer?.results.slice(0, 5).map((result) => result.label_name))].filter(Boolean).join(", ");
  $("map-text").textContent = "Map of test pictures" + (place ? `; the star is the query, near pictures of ${kinds}` : "");
}
