import { EVICTION_POLICIES, expertBytes, ReadMeError, writeTrace, type ExpertTrace, megabytes } from "@readme-moe/core";
import { generateMixtureTrace, generateTrace } from "../simulation/generate-trace.ts";
import {
  isMixtureTrace,
  readMixtureTrace,
  readTrace,
  writeMixtureTrace,
  type MixtureTrace,
} from "../simulation/read-trace.ts";
import { writeFileAtomically } from "@readme-moe/model";
import { Command, Option } from "commander";
import {
  readTextData,
  listOf,
  namesOf,
  parseBytes,
  parseWhole,
  wholeNumber,
  jsonOption,
} from "readme-moe/command-parts";
import {
  describeMixture,
  mixtureJson,
  mixtureTable,
  runMixtures,
  replayJson,
  replayPicture,
  replayTable,
  simulationJson,
  simulationPicture,
  simulationTable,
} from "../simulation/report.ts";
import {
  DRAWN_OPTIONS,
  runReplays,
  runSimulations,
  SCHEDULER_NAMES,
  SERVER_OPTIONS,
  type SimulateFlags,
} from "../simulation/run.ts";
import { checkedOptions, pickOptions } from "../option-table.ts";
import { flagsOf } from "./job.ts";

/** Options of a drawn trace that only a mixture has. */
const OF_MIXTURES = ["coupling", "skew"];

/** Options that a mixture with a router in every layer does not have. */
const NOT_OF_MIXTURES = ["replay", "lookaheadLayers", "svg"];

/** Options of scheduling, which a replay does not do. */
const SCHEDULED = ["scheduler", "writeTrace", ...Object.keys(SERVER_OPTIONS)];

const OPTIONS = { ...DRAWN_OPTIONS, ...SERVER_OPTIONS };

const capacities = listOf((part) => parseWhole(part, 1), "numbers of experts, such as 2,3,4,5");
const sizes = listOf(parseBytes, "sizes in memory, such as 300MB or 1.5GiB");

export function simulateCommand(): Command {
  const command = new Command("simulate")
    .summary("run a trace through schedulers and expert caches, without a model")
    .description(
      "Runs the routes of a trace, recorded or drawn, through a scheduler and expert caches of several sizes and policies, " +
        "without a model, and prints hits beside the bounds by Belady, reads and latencies.\n\n" +
        "Columns: layers that are read ahead; hits of the cache that layers share; hits of Belady on demand that knows one " +
        "step more, and of one that knows everything; hits of one layer alone with its experts in a random order; latency, and " +
        "latency per output token.\n\n" +
        "A mixture with a router in every layer runs on demand, with a forecast, and as a pre-gating router of the same shape. " +
        "Columns: hits of the cache; units in memory when their layer could run; reads because of a forecast, and those that " +
        "were right; share of the time without work.",
    )
    .option("--trace <file>", "a trace of JSON lines, plain or compressed with gzip (default: one is drawn)")
    .option("--seed <n>", "seed of all random choices", wholeNumber(0), 1)
    .option("--replay", "replay the recorded steps instead of scheduling the sequences anew", false)
    .option("--scheduler <names>", `schedulers, of ${SCHEDULER_NAMES.join(", ")}`, namesOf(SCHEDULER_NAMES), [
      "cost-aware",
    ])
    .option("--policy <names>", `eviction policies, of ${EVICTION_POLICIES.join(", ")}`, namesOf(EVICTION_POLICIES), [
      "belady",
      "lru",
      "random",
    ])
    .addOption(new Option("--capacity <list>", "cache sizes in experts (default: 2,3,4,5)").argParser(capacities))
    .addOption(
      new Option("--memory <list>", "cache sizes in bytes, such as 300MB,1.5GiB")
        .argParser(sizes)
        .conflicts("capacity"),
    )
    .option(
      "--lookahead-layers <n>",
      "layers that are read ahead (default: 1 with belady or --replay, else 0: on demand)",
      wholeNumber(0),
    )
    .option("--write-trace <file>", "write the trace, with the steps of the first run")
    .option("--svg <file>", "draw hits and latency over the size of the cache")
    .addOption(jsonOption());
  for (const option of flagsOf(OPTIONS)) command.addOption(option);
  return command.action(async (given: Omit<SimulateFlags, keyof typeof OPTIONS>) => {
    const flags = { ...given, ...checkedOptions("simulate", OPTIONS, pickOptions(OPTIONS, given)) };
    checkUsage(command, flags);
    await runSimulate(command, flags);
  });
}

/** Finds the first of some options that the caller gave. */
function givenOf(command: Command, names: readonly string[]): string | undefined {
  const name = names.find((one) => command.getOptionValueSource(one) === "cli");
  return command.options.find((one) => one.attributeName() === name)?.long;
}

function checkUsage(command: Command, flags: SimulateFlags): void {
  const { chunkTokens, maxNumBatchedTokens, replay, trace, expertsPerToken, experts } = flags;
  if (chunkTokens > maxNumBatchedTokens) {
    command.error("error: option '--chunk-tokens' must not exceed '--max-num-batched-tokens'");
  }
  if (expertsPerToken !== undefined && expertsPerToken > experts) {
    command.error("error: option '--experts-per-token' must not exceed '--experts'");
  }
  const ofMixture = expertsPerToken === undefined ? givenOf(command, OF_MIXTURES) : undefined;
  if (ofMixture !== undefined) command.error(`error: option '${ofMixture}' needs '--experts-per-token <n>'`);
  const scheduled = replay ? givenOf(command, SCHEDULED) : undefined;
  if (scheduled !== undefined) command.error(`error: option '${scheduled}' cannot be used with '--replay'`);
  if (replay && trace === undefined) command.error("error: option '--replay' needs '--trace <file>'");
  const ofDrawn = trace === undefined ? undefined : givenOf(command, Object.keys(DRAWN_OPTIONS));
  if (ofDrawn === undefined) return;
  command.error(`error: option '${ofDrawn}' is for a drawn trace, and cannot be used with '--trace <file>'`);
}

async function runSimulate(command: Command, flags: SimulateFlags): Promise<void> {
  const mixture = await mixtureOf(flags);
  if (mixture) {
    const refused = givenOf(command, NOT_OF_MIXTURES);
    if (refused !== undefined) command.error(`error: option '${refused}' cannot be used with a mixture`);
    return runMixture(mixture, flags);
  }
  const trace = await traceOf(flags);
  if (flags.replay) return runReplay(trace, flags);
  const runs = runSimulations(trace, flags);
  if (flags.writeTrace !== undefined) {
    const text = writeTrace({ ...trace, steps: runs[0]?.result.steps ?? [] });
    await writeFileAtomically(flags.writeTrace, text);
  }
  const summary = `${trace.sequences.length} sequences, ${modelOf(trace)}; ${flags.scheduler.join(", ")}`;
  if (flags.svg !== undefined) await writePicture(flags.svg, simulationPicture(runs, summary));
  const of = { sequences: trace.sequences.length, ...modelJson(trace) };
  print(flags, summary, simulationTable(runs), { ...of, runs: runs.map(simulationJson) });
}

async function runMixture(trace: MixtureTrace, flags: SimulateFlags): Promise<void> {
  const runs = runMixtures(trace, flags);
  if (flags.writeTrace !== undefined) await writeFileAtomically(flags.writeTrace, writeMixtureTrace(trace));
  const { layout, expertsPerToken, sequences } = trace;
  const shape = { num_experts: layout.numExperts, experts_per_token: expertsPerToken, layer_bytes: layout.layerBytes };
  const summary = `${sequences.length} sequences, ${describeMixture(trace)}; ${flags.scheduler.join(", ")}`;
  print(flags, summary, mixtureTable(runs), { sequences: sequences.length, ...shape, runs: runs.map(mixtureJson) });
}

async function runReplay(trace: ExpertTrace, flags: SimulateFlags): Promise<void> {
  if (trace.steps.length === 0) throw new ReadMeError("ERR_FILE_CORRUPT", `${flags.trace}: has no steps to replay`);
  const replays = runReplays(trace, flags);
  const summary = `${trace.steps.length} recorded steps, ${modelOf(trace)}`;
  if (flags.svg !== undefined) await writePicture(flags.svg, replayPicture(replays, summary));
  const of = { steps: trace.steps.length, ...modelJson(trace) };
  print(flags, summary, replayTable(replays), { ...of, replays: replays.map(replayJson) });
}

function print({ json }: SimulateFlags, summary: string, table: readonly string[], result: object): void {
  if (json) return console.log(JSON.stringify(result));
  for (const line of [summary, ...table]) console.log(line);
}

async function writePicture(path: string, svg: Promise<string> | undefined): Promise<void> {
  if (svg !== undefined) await writeFileAtomically(path, await svg);
}

function modelOf({ layout }: ExpertTrace): string {
  const bytes = layout.numExperts * expertBytes(layout);
  return `${layout.numExperts} experts in ${layout.layerBytes.length} layers, ${megabytes(bytes)}`;
}

function modelJson({ layout }: ExpertTrace): object {
  return { num_experts: layout.numExperts, layer_bytes: layout.layerBytes };
}

/** Reads or draws a mixture's trace; `undefined` if the flags mean another one. */
async function mixtureOf(flags: SimulateFlags): Promise<MixtureTrace | undefined> {
  if (flags.trace !== undefined) {
    const text = await readTextData(flags.trace);
    return isMixtureTrace(text) ? readMixtureTrace(text, flags.trace) : undefined;
  }
  const { expertsPerToken, coupling, skew } = flags;
  return expertsPerToken === undefined
    ? undefined
    : generateMixtureTrace({ ...drawnOf(flags), expertsPerToken, coupling, skew });
}

async function traceOf(flags: SimulateFlags): Promise<ExpertTrace> {
  if (flags.trace !== undefined) return readTrace(await readTextData(flags.trace), flags.trace);
  return generateTrace(drawnOf(flags));
}

function drawnOf(flags: SimulateFlags) {
  return {
    numExperts: flags.experts,
    layerBytes: Array.from({ length: flags.layers }, () => flags.layerBytes),
    numSequences: flags.sequences,
    seed: flags.seed,
    arrivalsPerStep: flags.arrivalsPerStep,
    meanPromptTokens: flags.promptTokens,
    meanOutputTokens: flags.outputTokens,
    locality: flags.locality,
  };
}
