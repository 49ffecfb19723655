import type { Report } from "../report.ts";
import { expertLossesPicture } from "./expert-losses-picture.ts";
import { layerErrorsPicture } from "./layer-errors-picture.ts";
import { lossesPicture } from "./losses-picture.ts";
import { overlapPicture } from "./overlap-picture.ts";
import { routesPicture } from "./routes-picture.ts";

export interface ReportPicture {
  /** Within the model folder. */
  readonly file: string;
  /** What it shows, in a few words. */
  readonly alt: string;
  /** An SVG document; the same for the same report. */
  readonly svg: string;
}

/** Pictures of all that a report has figures for. */
export function reportPictures(report: Report): readonly ReportPicture[] {
  const pictures = [
    { file: "losses", alt: "Loss above the dense model, by domain and method", svg: lossesPicture(report) },
    { file: "expert-losses", alt: "Loss of each expert on each domain", svg: expertLossesPicture(report) },
    { file: "routes", alt: "Tokens of sample texts, coloured by expert", svg: routesPicture(report) },
    { file: "overlap", alt: "Share of neurons that experts have in common", svg: overlapPicture(report) },
    { file: "layer-errors", alt: "Relative error of each layer, by method", svg: layerErrorsPicture(report) },
  ];
  return pictures.flatMap(({ file, alt, svg }) =>
    svg === undefined ? [] : [{ file: `pictures/${file}.svg`, alt, svg }],
  );
}
