// The pictures of a report.

import { LOSS_LABELS } from "../measurements.ts";
import type { Report } from "../report.ts";
import { lossesPicture } from "./bar-pictures.ts";
import { methodColour } from "./drawing.ts";
import { expertLossesPicture, overlapPicture } from "./heat-map-pictures.ts";
import { linePicture, type Curve } from "./line-picture.ts";
import { routesPicture } from "./routes-picture.ts";

export interface ReportPicture {
  /** Path within the model folder. */
  readonly file: string;
  /** Content in a few words. */
  readonly alt: string;
  /** An SVG document; the same for the same report. */
  readonly svg: string;
}

/** Draws everything that a report has figures for. */
export async function reportPictures(report: Report): Promise<readonly ReportPicture[]> {
  const pictures = [
    { file: "losses", alt: "Loss above the dense model, by domain and method", svg: lossesPicture(report) },
    { file: "expert-losses", alt: "Loss of each expert on each domain", svg: expertLossesPicture(report) },
    { file: "routes", alt: "Tokens of sample texts, coloured by expert", svg: routesPicture(report) },
    { file: "overlap", alt: "Share of neurons that experts have in common", svg: overlapPicture(report) },
    { file: "layer-errors", alt: "Relative error of each layer, by method", svg: layerErrorsPicture(report) },
  ];
  const drawn = await Promise.all(
    pictures.map(async ({ file, alt, svg }) => ({ file: `pictures/${file}.svg`, alt, svg: await svg })),
  );
  return drawn.filter((one): one is ReportPicture => one.svg !== undefined);
}

/** Draws the error of each layer by method, with a band from the best to the worst expert. */
function layerErrorsPicture({ layers }: Pick<Report, "layers">): Promise<string> | undefined {
  const methods = [...new Set(layers.flatMap((layer) => Object.keys(layer.relative_errors)))];
  const curves = methods.map((id, place): Curve => {
    const measured = layers.flatMap(({ relative_errors: errors }, layer) => {
      const own = errors[id] ?? [];
      return own.length === 0 ? [] : [{ layer, own }];
    });
    return {
      name: id === "ours" ? "Ours" : nameOf(id),
      colour: methodColour(id, place),
      points: measured.map(({ layer, own }) => [layer, own.reduce((sum, error) => sum + error, 0) / own.length]),
      band: measured.map(({ layer, own }) => [layer, Math.min(...own), Math.max(...own)]),
    };
  });
  if (curves.every(({ points }) => points.length === 0)) return undefined;
  return linePicture({
    title: "Error of each layer",
    description: "Mean of experts, and a band from the best to the worst expert: lower is better.",
    xTitle: "layer",
    rows: [{ panels: [{ title: "squared error relative to the square of the dense layer's output", curves }] }],
  });
}

function nameOf(id: string): string {
  return (LOSS_LABELS as Readonly<Record<string, string>>)[id] ?? id;
}
