// README.md of a Read-ME model folder: a model card for the Hugging Face hub.

import { type ReportPicture, reportPictures } from "./pictures/report-pictures.ts";
import type { BaseReport, Report } from "./report.ts";
import {
  bytes,
  decimals,
  duration,
  grouped,
  markdownCode,
  markdownTable,
  markdownText,
  percent,
  rounded,
  signed,
} from "./verdict.ts";

const PAPER = "[Read-ME](https://arxiv.org/abs/2410.19123)";

/** Writes the card. `pictures` are those that lie beside it. */
export function modelCard(report: Report, pictures: readonly Pick<ReportPicture, "file" | "alt">[]): string {
  const show = (name: string): string =>
    pictures
      .filter(({ file }) => file === `pictures/${name}.svg`)
      .map(({ file, alt }) => `![${markdownText(alt)}](${file})`)
      .join("");
  const sections = [
    frontMatter(report.base) + "\n" + heading(report),
    usage(report),
    "## What it costs",
    lossTable(report),
    lossNotes(report),
    show("losses"),
    "## Experts",
    expertTable(report),
    show("expert-losses"),
    show("overlap"),
    show("layer-errors"),
    ...(report.router ? ["## Router", routerText(report.router), show("routes")] : []),
    "## Data",
    dataTable(report),
    dataNotes(report),
    "## How it was made",
    making(report),
    "## Limits",
    limits(report),
  ];
  return `${sections.filter((section) => section !== "").join("\n\n")}\n`;
}

function heading({ base, settings, size, router, verdict }: Report): string {
  const count = settings.experts.length;
  const experts = count === 1 ? "one expert" : `${count} experts`;
  const routed = router ? "; a small router chooses each token's expert before the model runs" : "";
  return [
    `# ${markdownText(base.name)}, refactored into ${experts}`,
    `The feed-forward layers of the dense model ${markdownText(base.name)} were cut into ${experts} after ${PAPER}${routed}. ` +
      `The result has ${rounded(size.parameters)} parameters, of which a token uses ${rounded(size.active_parameters)}; ` +
      `the dense model has ${rounded(base.parameters)}.`,
    verdict.map((sentence) => `- ${markdownText(sentence)}`).join("\n"),
  ]
    .filter((part) => part !== "")
    .join("\n\n");
}

function usage({ router }: Report): string {
  return `## Run it

With Node.js and [readme-moe](https://www.npmjs.com/package/readme-moe), where \`DIR\` is this folder:

\`\`\`sh
readme-moe chat DIR       # if the base model is a chat model
readme-moe generate DIR --prompt "The ship was"
readme-moe eval DIR --data text.jsonl
\`\`\`${router ? "" : "\n\nThis model has no router."}`;
}

function lossTable({ losses, data }: Report): string {
  const domains = data.map(({ name }) => name);
  const header = ["method", "FFN used", "mean", "above dense", ...domains.map(markdownText)];
  const rows = losses.map((row) => {
    const cells = [
      markdownText(row.label),
      percent(row.ffn_share),
      decimals(row.mean, 3),
      row.id === "dense" ? "–" : signed(row.above_dense, 3),
      ...domains.map((domain) => (row.losses[domain] === undefined ? "–" : decimals(row.losses[domain], 3))),
    ];
    return row.id === "ours" ? cells.map((cell) => `**${cell}**`) : cells;
  });
  return markdownTable(header, rows);
}

function lossNotes({ data }: Report): string {
  const tokens = data.reduce((sum, domain) => sum + domain.evaluation_tokens, 0);
  return (
    `Mean loss in nats per token on ${grouped(tokens)} tokens of held-out documents; perplexity is e to that power. ` +
    "Above dense: the mean minus the dense model's. " +
    "The static expert has as many neurons as a token uses here and needs no router: routing has to be better."
  );
}

function expertTable({ settings, router }: Report): string {
  const rows = settings.experts.map((name, expert) => [
    `${expert}`,
    markdownText(name),
    ...(router ? [percent(router.expert_shares[expert] ?? 0)] : []),
  ]);
  return markdownTable(["expert", "name", ...(router ? ["share of tokens"] : [])], rows);
}

function routerText(router: NonNullable<Report["router"]>): string {
  return [
    `- ${percent(router.domain_agreement)} of tokens go to the expert of their document's domain.`,
    `- ${percent(router.locality)} keep the previous token's expert.`,
    `- Regret: ${decimals(router.regret)}, where 0 is the best expert for every token and 1 a random one.`,
  ].join("\n");
}

function dataTable({ data }: Report): string {
  const hasLicenses = data.some(({ licenses }) => licenses !== undefined && licenses.length > 0);
  const rows = data.map((domain) => [
    markdownText(domain.name),
    domain.files.map(markdownCode).join(", "),
    grouped(domain.calibration_documents),
    grouped(domain.calibration_tokens),
    grouped(domain.held_out_documents),
    grouped(domain.evaluation_tokens),
    ...(hasLicenses ? [domain.licenses?.map(markdownText).join(", ") ?? "not given"] : []),
  ]);
  return markdownTable(
    [
      "domain",
      "files",
      "documents",
      "tokens",
      "held-out documents",
      "held-out tokens",
      ...(hasLicenses ? ["licences"] : []),
    ],
    rows,
  );
}

function dataNotes({ data }: Report): string {
  const isUnknown = data.every(({ licenses }) => licenses === undefined || licenses.length === 0);
  const licenses = isUnknown ? " Their licences were not given." : "";
  return `Losses were measured on the held-out documents, which were used for neither the experts nor the router.${licenses}`;
}

function making({ base, settings, time, size }: Report): string {
  const options = Object.entries(settings.options).map(([name, value]) => markdownCode(`${name}=${String(value)}`));
  const shared = settings.shared_size;
  return [
    `- Base model: ${markdownCode(base.source)}, ${markdownCode(base.fingerprint)}: ${base.model_type.replaceAll(/\W/g, " ")}, ` +
      `${base.num_layers} layers, hidden size ${grouped(base.hidden_size)}, FFN size ${grouped(base.ffn_size)}.`,
    `- Method ${markdownCode(settings.method)}, seed ${settings.seed}; neurons per expert: ${sizes(settings.expert_size)}; ` +
      `shared by all: ${sizes(shared)}; router: ${rounded(size.router_parameters)} parameters.`,
    ...(options.length > 0 ? [`- Options: ${options.join(", ")}.`] : []),
    `- The refactoring took ${duration(time.total_ms)} and at most ${bytes(time.peak_memory_bytes)} of memory on ` +
      `${time.machine.threads} of ${time.machine.cores} cores (${time.machine.platform}, Node.js ${time.machine.node}): ` +
      `${time.stages.map(({ name, ms }) => `${markdownText(name)} ${duration(ms)}`).join(", ")}.`,
    "- All figures: [report.json](report.json).",
  ].join("\n");
}

function sizes(size: number | readonly number[]): string {
  if (typeof size === "number") return size === 0 ? "none" : grouped(size);
  const least = Math.min(...size);
  const most = Math.max(...size);
  return least === most ? sizes(least) : `${grouped(least)} to ${grouped(most)} by layer`;
}

function limits({ base, data, losses }: Report): string {
  const cost = losses.find(({ id }) => id === "ours")?.above_dense ?? 0;
  return [
    "- The limits and faults of the base model remain; its card applies.",
    ...(cost > 0
      ? [`- Quality is below that of ${markdownText(base.name)}; if memory and time allow it, prefer the dense model.`]
      : []),
    `- Experts were fitted to ${data.length === 1 ? "one kind" : `${data.length} kinds`} of text. Losses on other text, languages and tasks were not measured.`,
    "- Losses on held-out text say little about answers to instructions, reasoning or safety.",
  ].join("\n");
}

/** Licences that the hub knows, by their SPDX id or their own name in lower case. */
const HUB_LICENSES = new Set([
  "apache-2.0",
  "mit",
  "bsd-2-clause",
  "bsd-3-clause",
  "isc",
  "cc0-1.0",
  "cc-by-4.0",
  "cc-by-sa-4.0",
  "cc-by-nc-4.0",
  "gpl-3.0",
  "agpl-3.0",
  "unlicense",
  "llama2",
  "llama3",
  "llama3.1",
  "llama3.2",
  "llama3.3",
  "gemma",
  "other",
]);

/** Writes the YAML at the head of the card. JSON strings are YAML strings. */
function frontMatter({ hub_id: hubId, license }: BaseReport): string {
  const isKnown = license !== undefined && HUB_LICENSES.has(license.toLowerCase());
  const lines = [
    ...(hubId ? [`base_model: ${JSON.stringify(hubId)}`] : []),
    ...(isKnown ? [`license: ${JSON.stringify(license.toLowerCase())}`] : []),
    ...(license !== undefined && !isKnown ? ["license: other", `license_name: ${JSON.stringify(license)}`] : []),
    "library_name: readme-moe",
    "pipeline_tag: text-generation",
    "tags:",
    ...["readme-moe", "mixture-of-experts", "pre-gating", "arxiv:2410.19123"].map(
      (tag) => `  - ${JSON.stringify(tag)}`,
    ),
  ];
  return `---\n${lines.join("\n")}\n---\n`;
}

// The files that a report becomes in a model folder.

/**
 * Writes a report as report.json, README.md and pictures/*.svg, by name. The same report gives the same bytes.
 *
 * @throws {RangeError} naming a figure that is not a finite number
 */
export async function reportDocuments(report: Report): Promise<Readonly<Record<string, string>>> {
  const json = reportJson(report);
  const pictures = await reportPictures(report);
  return {
    "report.json": json,
    "README.md": modelCard(report, pictures),
    ...Object.fromEntries(pictures.map(({ file, svg }) => [file, svg])),
  };
}

/** Writes report.json. @throws {RangeError} naming a figure that is not a finite number, which JSON cannot hold */
export function reportJson(report: object): string {
  checkFigures("report", report);
  return `${JSON.stringify(report, undefined, 1)}\n`;
}

function checkFigures(path: string, value: unknown): void {
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new RangeError(`Expected \`${path}\` to be a finite number, got \`${value}\``);
  }
  if (typeof value !== "object" || value === null) return;
  for (const [key, part] of Object.entries(value)) {
    checkFigures(Array.isArray(value) ? `${path}[${key}]` : `${path}.${key}`, part);
  }
}
