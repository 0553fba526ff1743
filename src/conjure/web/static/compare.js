// Runs beside each other: their curves, asked for anew while one of them goes on.
import { Curves } from "./chart.js";
import { poll } from "./page.js";

const section = document.querySelector("[data-curves]");
if (section) {
  const curves = new Curves(section);
  poll(async () => {
    const visible = curves.figures.filter((each) => each.visible && each.data);
    const read = visible.filter((each) => !each.missing);
    const going = read.filter((each) => Object.values(each.data).some((curve) => curve.active));
    if (!curves.settings.zoom) await Promise.all(going.map((each) => each.load()));
    return !visible.length || read.length < visible.length || going.length ? 1000 : null;
  }, 1000);
}
