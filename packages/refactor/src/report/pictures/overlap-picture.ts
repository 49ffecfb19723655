import { decimals } from "../figures.ts";
import type { Report } from "../report.ts";
import { blues } from "./colours.ts";
import { heatMap, heatMapSize, shadeKey } from "./heat-map.ts";
import { MARGIN, picture, TOP, widthFor } from "./picture.ts";

/** Which share of their neurons experts have in common; `undefined` for fewer than two experts. */
export function overlapPicture({ overlap, settings }: Report): string | undefined {
  if (overlap === undefined || overlap.mean.length < 2) return undefined;
  const cells = overlap.mean.map((row) => row.map((share) => ({ text: decimals(share), amount: share })));
  const names = settings.experts;
  const map = { rows: names, columns: names, rowsAre: "expert", columnsAre: "expert", cells, shades: blues };
  const size = heatMapSize(map);
  const text = {
    title: "Neurons that experts have in common",
    description: "Share of an expert's neurons, mean over layers, shared ones not counted.",
  };
  const width = widthFor(text, size.width);
  const keyTop = TOP + size.height + 14;
  const key = shadeKey(blues, MARGIN, keyTop, "none", "all");
  return picture(text, width, keyTop + 12 + MARGIN, heatMap(map, MARGIN, TOP), key);
}
