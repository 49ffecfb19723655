// A tuning's report as files of the model folder, before those of the refactoring.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { readTextFile, type Model } from "@readme-moe/model";
import { decimals, signed } from "../../report/text.ts";
import { linePicture } from "../../report/pictures/line-picture.ts";
import type { TuningReport } from "./tuning-report.ts";

const MAX_BYTES = 64 << 20;
const CURVE = "pictures/tuning.svg";

/** report.json gets a field `tuning`; README.md a section at its head, behind what a hub reads. */
export async function tuningDocuments(model: Model, report: TuningReport): Promise<Readonly<Record<string, string>>> {
  const before = await readTextFile(join(model.path, "report.json"), MAX_BYTES);
  const card = await readTextFile(join(model.path, "README.md"), MAX_BYTES);
  const [, head = "", body = ""] = /^(---\r?\n.*?\r?\n---\r?\n)?(.*)$/s.exec(card ?? "") ?? [];
  return {
    ...(await picturesOf(model)),
    [CURVE]: tuningPicture(report),
    "report.json": `${JSON.stringify({ ...asObject(before), tuning: report }, undefined, 1)}\n`,
    "README.md": `${head}\n${tuningSection(report)}\n${body.replace(/^\s+/, "")}`.trimStart(),
  };
}

function tuningSection(report: TuningReport): string {
  const { dense, before, after, options, data } = report;
  const row = (name: string, pick: (losses: TuningReport["dense"]) => number): string =>
    `| ${name} | ${[dense, before, after].map((losses) => decimals(pick(losses))).join(" | ")} |`;
  const how =
    options.method === "lora"
      ? `changes of rank ${options.rank} of the experts' products`
      : "all weights of the experts";
  return [
    "# Tuned",
    "",
    `The model below learned ${how}${options.attention ? ", and of attention," : ""} from its dense model's next-token`,
    `distributions on ${report.tokens.toLocaleString("en")} tokens. Held-out text, its own router, nats per token:`,
    "",
    "| | dense | before tuning | tuned |",
    "|---|---|---|---|",
    ...data.map(({ name }) => row(name, ({ losses }) => losses[name] as number)),
    row("**mean**", ({ mean }) => mean),
    "",
    `Above the dense model: ${signed(before.above_dense, 3)} before, **${signed(after.above_dense, 3)}** tuned.`,
    "",
    `![Loss above the dense model by tokens learned from](${CURVE})`,
    "",
    "What follows was measured before tuning, on other text.",
    "",
  ].join("\n");
}

function tuningPicture({ curve, data }: TuningReport): string {
  const points = (pick: (point: TuningReport["curve"][number]) => number) =>
    curve.map((point) => [point.tokens / 1000, pick(point)] as const);
  return linePicture({
    title: "What tuning wins back",
    description: "Loss on held-out text above the dense model's, by tokens learned from: lower is better.",
    xTitle: "thousand tokens",
    rows: [
      {
        panels: [
          {
            title: `nats per token above the dense model, mean of ${data.length} kind(s) of text`,
            curves: [
              { name: "learned router", colour: "#1f6f8b", points: points((point) => Math.max(0, point.above_dense)) },
            ],
          },
        ],
      },
    ],
  });
}

async function picturesOf({ path }: Model): Promise<Record<string, string>> {
  const names = await readdir(join(path, "pictures")).catch(() => []);
  const pictures: Record<string, string> = {};
  for (const name of names.filter((file) => file.endsWith(".svg"))) {
    const text = await readTextFile(join(path, "pictures", name), MAX_BYTES);
    if (text !== undefined) pictures[`pictures/${name}`] = text;
  }
  return pictures;
}

function asObject(text: string | undefined): object {
  try {
    const value: unknown = JSON.parse(text ?? "{}");
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {}; // somebody's own file: the tuning's figures do not depend on it
  }
}
