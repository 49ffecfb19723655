import { decimals } from "../figures.ts";
import type { Report } from "../report.ts";
import { oranges } from "./colours.ts";
import { heatMap, heatMapSize, shadeKey } from "./heat-map.ts";
import { MARGIN, picture, TOP, widthFor } from "./picture.ts";

/** Losses of all experts on all domains; `undefined` where they were not measured, or are of one expert. */
export function expertLossesPicture(report: Report): string | undefined {
  const losses = report.expert_losses;
  if (losses === undefined || losses.length < 2) return undefined;
  const rows = report.settings.experts;
  const columns = report.data.map(({ name }) => name);
  const best = columns.map((_, domain) => Math.min(...losses.map((row) => row[domain] as number)));
  const above = losses.map((row) => row.map((loss, domain) => loss - (best[domain] as number)));
  const most = Math.max(...above.flat());
  const cells = losses.map((row, expert) =>
    row.map((loss, domain) => ({
      text: decimals(loss),
      amount: most > 0 ? (above[expert]?.[domain] as number) / most : 0,
      isMarked: loss === best[domain],
    })),
  );
  const map = { rows, columns, rowsAre: "expert", columnsAre: "domain of the text", cells, shades: oranges };
  const size = heatMapSize(map);
  const text = {
    title: "Each expert on each domain",
    description: "Nats per token; framed: the domain's best expert.",
  };
  const width = widthFor(text, size.width);
  const keyTop = TOP + size.height + 14;
  const key = shadeKey(oranges, MARGIN, keyTop, "as the best", `${decimals(most)} nats worse`);
  return picture(text, width, keyTop + 12 + MARGIN, heatMap(map, MARGIN, TOP), key);
}
