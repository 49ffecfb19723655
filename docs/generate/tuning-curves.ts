// Draws the measured curves of tuning with more neurons and with fewer experts in one picture.

import { readFile, writeFile } from "node:fs/promises";
import { linePicture, type Curve } from "@readme-moe/refactor";

/** `experts,tokens,over_dense`: a line for each measurement, ascending by tokens. */
export const TUNING_CURVES = "models/smollm2-135m/curves.csv";
export const TUNING_PICTURE = "docs/images/tuning-curves.svg";

const COLOURS = ["#0072b2", "#009e73", "#d55e00", "#cc79a7"];

export async function drawTuningCurves(from: string, to: string): Promise<void> {
  const [, ...lines] = (await readFile(from, "utf8")).trimEnd().split("\n");
  const points = new Map<string, [x: number, y: number][]>();
  for (const line of lines) {
    const [name = "", tokens, overDense] = line.split(",");
    points.set(name, [...(points.get(name) ?? []), [Math.round(Number(tokens) / 1000), Number(overDense)]]);
  }
  const curves = [...points].map(([name, own], place): Curve => ({
    name,
    colour: COLOURS[place % COLOURS.length] as string,
    points: own,
  }));
  const svg = await linePicture({
    title: "Loss recovered by tuning",
    description: "Loss on held-out text above the dense model's, by tokens learned from: lower is better.",
    xTitle: "thousand tokens",
    rows: [{ panels: [{ title: "nats per token above the dense model, mean of 8 kinds of text", curves }] }],
  });
  await writeFile(to, svg);
}
