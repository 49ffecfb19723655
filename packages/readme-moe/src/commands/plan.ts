import { ReadMeError } from "@readme-moe/core";
import { draftHeadBytes, expertLayout, resolveEngineOptions } from "@readme-moe/engine";
import { longestSequence, type Model } from "@readme-moe/model";
import { Command, Option } from "commander";
import { MODEL_ARGUMENT, withModelFiles } from "../models.ts";
import { byteSize, numberBetween, positiveNumber, wholeNumber, jsonOption, requireOption } from "../options.ts";
import { expectedCost } from "../plan/expected-cost.ts";
import { readSpeed, reportFigures } from "../plan/model-figures.ts";
import { planMemory, recommend } from "../plan/plan-memory.ts";
import { placementsOf } from "../plan/placements.ts";
import { planJson, planLines, refusal, type Plan } from "../plan/plan-rows.ts";

interface PlanFlags {
  /** Memory of the process, in bytes. */
  readonly memory: number;
  readonly sequences: number;
  readonly context?: number;
  readonly locality?: number;
  readonly readMbPerS?: number;
  readonly json: boolean;
}

const DEFAULT_CONTEXT_TOKENS = 2048;
/** Typical value of our models' routers, for a model without a report. */
const DEFAULT_LOCALITY = 0.9;
/** Used when a model is too small to measure reads. */
const DEFAULT_READ_MB_PER_S = 1000;

export function planCommand(signal: AbortSignal): Command {
  const command = new Command("plan")
    .summary("show what fits into a given memory, before a model is loaded")
    .description(
      "Computes from a model's shapes how much memory it takes in each precision, with all experts in memory or with " +
        "streamed ones, and beside it the dense model that it was made from. Shows what fits and the expected time of a " +
        "token, and recommends one. The memory is that of the process that runs the model.\n\n" +
        "Exit code 1 when nothing fits, with the least memory that would be enough.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .addOption(
      new Option("--memory <size>", "memory of the engine's process, such as 300MB or 1.5GiB (required)").argParser(
        byteSize,
      ),
    )
    .option("--sequences <n>", "sequences that run at once", wholeNumber(1), 1)
    .option("--context <tokens>", "tokens of each sequence (default: 2048, or the model's context)", wholeNumber(1))
    .option(
      "--locality <share>",
      "share of tokens that keep the expert of the token before (default: the report's)",
      numberBetween(0, 1),
    )
    .option("--read-mb-per-s <n>", "speed of reading experts (default: measured)", positiveNumber)
    .addOption(jsonOption());
  return command.action((name: string, flags: PlanFlags) => {
    requireOption(command, "memory");
    const print = async (model: Model): Promise<void> => {
      const plan = await planOf(name, model, flags);
      if (flags.json) console.log(JSON.stringify(planJson(plan)));
      else for (const line of planLines(plan)) console.log(line);
      if (!plan.recommendation) throw new ReadMeError("ERR_MEMORY", `${name}: ${refusal(plan)}`);
    };
    return withModelFiles(name, signal, print, {});
  });
}

async function planOf(name: string, model: Model, flags: PlanFlags): Promise<Plan> {
  const { memory: memoryBytes, sequences } = flags;
  const most = longestSequence(model.config);
  const { context: contextTokens = Math.min(most, DEFAULT_CONTEXT_TOKENS) } = flags;
  if (contextTokens > most) {
    throw new RangeError(`Expected \`--context\` to be at most ${most}, the model's, got \`${contextTokens}\``);
  }
  const report = await reportFigures(model.path);
  const locality = flags.locality ?? report.locality ?? DEFAULT_LOCALITY;
  const readMbPerS = flags.readMbPerS ?? (await measuredSpeed(model)) ?? DEFAULT_READ_MB_PER_S;
  const { numExperts } = expertLayout(model);
  const draftBytes = await draftHeadBytes(model, resolveEngineOptions({}));
  const placements = placementsOf(model, { sequences, contextTokens, draftBytes });
  const rows = planMemory(placements, memoryBytes).map((row) => ({
    ...row,
    ...expectedCost(row, { numExperts, locality, sequences, readMbPerS }),
  }));
  const recommendation = recommend(rows);
  const kvCacheBytes = (rows.find((row) => row === recommendation?.chosen) ?? rows[0])?.kvCacheBytes ?? 0;
  const sizes = { path: name, memoryBytes, sequences, contextTokens, kvCacheBytes };
  const own = placements[0]?.model ?? "dense";
  const generates = model.config.pooling === undefined;
  return { ...sizes, own, generates, readMbPerS, locality, report, rows, recommendation };
}

/** Measures reading of a file with experts. */
async function measuredSpeed({ files, experts }: Model): Promise<number | undefined> {
  const file = files[1] ?? files[0];
  if (experts.names.length < 2 || file === undefined) return undefined;
  return readSpeed(file, () => performance.now());
}
