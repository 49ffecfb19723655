import { expertBytes, generateTrace, ReadMeError, readTrace, writeTrace, type ExpertTrace } from "@readme-moe/core";
import { writeFileAtomically } from "@readme-moe/model";
import { Command, Option } from "commander";
import { readTextData } from "../evaluation/text-data.ts";
import { jsonOption, wholeNumber } from "../options.ts";
import {
  capacityList,
  fromOne,
  memoryList,
  policyList,
  positive,
  schedulerList,
  share,
} from "../simulation/arguments.ts";
import { runReplays } from "../simulation/run-replays.ts";
import { runSimulations } from "../simulation/run-simulations.ts";
import { SCHEDULER_NAMES } from "../simulation/schedulers.ts";
import type { SimulateFlags } from "../simulation/simulate-flags.ts";
import { replayPicture, simulationPicture } from "../simulation/simulation-picture.ts";
import { replayJson, replayTable, simulationJson, simulationTable } from "../simulation/simulation-rows.ts";

/** Options that describe a trace that is drawn, and contradict one that is read. */
const DRAWN = [
  "experts",
  "layers",
  "layerBytes",
  "sequences",
  "arrivalsPerStep",
  "promptTokens",
  "outputTokens",
  "locality",
];

/** Options that describe how sequences are scheduled, which a replay does not. */
const SCHEDULED = [
  "scheduler",
  "maxNumSeqs",
  "maxNumBatchedSeqs",
  "maxNumBatchedTokens",
  "chunkTokens",
  "readMbPerS",
  "overlap",
  "writeTrace",
];

export function simulateCommand(): Command {
  const command = new Command("simulate")
    .summary("what a scheduler and an expert cache would make of a trace")
    .description(
      "Runs the routes of a trace, recorded or drawn, through a scheduler and expert caches of several sizes and policies,\n" +
        "without a model, and prints hits beside what Belady would have, reads and latencies.\n\n" +
        "Columns: hits of the cache that layers share; the same with Belady on demand who knows one step more, and who knows\n" +
        "everything; of one layer alone with its experts in a drawn order; latency, and latency by output token.",
    )
    .option("--trace <file>", "a trace of JSON lines, or one compressed with gzip (default: one is drawn)")
    .addOption(drawn("--experts <n>", "of the drawn trace", wholeNumber(1), 7))
    .addOption(drawn("--layers <n>", "of the drawn trace", wholeNumber(1), 6))
    .addOption(drawn("--layer-bytes <n>", "of one layer of one expert", wholeNumber(1), 1_000_000))
    .addOption(drawn("--sequences <n>", "that arrive", wholeNumber(1), 100))
    .addOption(drawn("--arrivals-per-step <n>", "mean", positive, 0.125))
    .addOption(drawn("--prompt-tokens <n>", "mean", fromOne, 64))
    .addOption(drawn("--output-tokens <n>", "mean", fromOne, 32))
    .addOption(drawn("--locality <share>", "of the tokens that keep the expert of the token before", share, 0.9))
    .option("--seed <n>", "of everything that is drawn", wholeNumber(0), 1)
    .option("--replay", "the steps that were recorded, as they ran, instead of scheduling the sequences anew", false)
    .option("--scheduler <names>", `who chooses what runs, of ${SCHEDULER_NAMES.join(", ")}`, schedulerList, [
      "cost-aware",
    ])
    .option("--policy <names>", "of eviction, such as belady,lru,lfu,random", policyList, ["belady", "lru", "random"])
    .addOption(new Option("--capacity <list>", "sizes in experts (default: 2,3,4,5)").argParser(capacityList))
    .addOption(
      new Option("--memory <list>", "sizes in bytes, such as 300MB,1.5GiB").argParser(memoryList).conflicts("capacity"),
    )
    .option(
      "--lookahead-layers <n>",
      "that reads evict for (default: 1 with belady or --replay, else 0: on demand)",
      wholeNumber(0),
    )
    .option("--max-num-seqs <n>", "sequences that hold KV memory", wholeNumber(1), 32)
    .option("--max-num-batched-seqs <n>", "sequences in one step (default: all that hold memory)", wholeNumber(1))
    .option("--max-num-batched-tokens <n>", "tokens in one step", wholeNumber(1), 512)
    .option("--chunk-tokens <n>", "prefill runs in pieces of this many", wholeNumber(1), 128)
    .option("--read-mb-per-s <n>", "how fast units are read", positive, 1000)
    .option("--no-overlap", "nothing is computed while units are read")
    .option("--write-trace <file>", "the trace, with the steps of the first run")
    .option("--svg <file>", "a picture: hits and latency by the cache's size")
    .addOption(jsonOption());
  return command.action(async (flags: SimulateFlags) => {
    checkUsage(command, flags);
    await runSimulate(flags);
  });
}

function checkUsage(command: Command, flags: SimulateFlags): void {
  if (flags.chunkTokens > flags.maxNumBatchedTokens) {
    command.error("error: option '--chunk-tokens' must not exceed '--max-num-batched-tokens'");
  }
  const scheduled = flags.replay && SCHEDULED.find((name) => command.getOptionValueSource(name) === "cli");
  if (scheduled) command.error(`error: option '${longOf(command, scheduled)}' cannot be used with '--replay'`);
  if (flags.replay && flags.trace === undefined) command.error("error: option '--replay' needs '--trace <file>'");
  const given = DRAWN.find((name) => command.getOptionValueSource(name) === "cli");
  if (flags.trace === undefined || given === undefined) return;
  command.error(
    `error: option '${longOf(command, given)}' is of a drawn trace, and cannot be used with '--trace <file>'`,
  );
}

function longOf(command: Command, name: string): string | undefined {
  return command.options.find((one) => one.attributeName() === name)?.long;
}

async function runSimulate(flags: SimulateFlags): Promise<void> {
  const trace = await traceOf(flags);
  if (flags.replay) return runReplay(trace, flags);
  const runs = runSimulations(trace, flags);
  if (flags.writeTrace !== undefined) {
    const text = writeTrace({ ...trace, steps: runs[0]?.result.steps ?? [] });
    await writeFileAtomically(flags.writeTrace, text);
  }
  const summary = `${trace.sequences.length} sequences, ${modelOf(trace)}; ${flags.scheduler.join(", ")}`;
  await writePicture(flags, simulationPicture(runs, summary));
  const of = { sequences: trace.sequences.length, ...modelJson(trace) };
  print(flags, summary, simulationTable(runs), { ...of, runs: runs.map(simulationJson) });
}

async function runReplay(trace: ExpertTrace, flags: SimulateFlags): Promise<void> {
  if (trace.steps.length === 0) throw new ReadMeError("ERR_FILE_CORRUPT", `${flags.trace}: has no steps to replay`);
  const replays = runReplays(trace, flags);
  const summary = `${trace.steps.length} recorded steps, ${modelOf(trace)}`;
  await writePicture(flags, replayPicture(replays, summary));
  const of = { steps: trace.steps.length, ...modelJson(trace) };
  print(flags, summary, replayTable(replays), { ...of, replays: replays.map(replayJson) });
}

function print({ json }: SimulateFlags, summary: string, table: readonly string[], result: object): void {
  if (json) return console.log(JSON.stringify(result));
  for (const line of [summary, ...table]) console.log(line);
}

async function writePicture({ svg }: SimulateFlags, picture: string | undefined): Promise<void> {
  if (svg !== undefined && picture !== undefined) await writeFileAtomically(svg, picture);
}

function modelOf({ layout }: ExpertTrace): string {
  const megabytes = ((layout.numExperts * expertBytes(layout)) / 1e6).toFixed(1);
  return `${layout.numExperts} experts in ${layout.layerBytes.length} layers, ${megabytes} MB`;
}

function modelJson({ layout }: ExpertTrace): object {
  return { num_experts: layout.numExperts, layer_bytes: layout.layerBytes };
}

async function traceOf(flags: SimulateFlags): Promise<ExpertTrace> {
  if (flags.trace !== undefined) return readTrace(await readTextData(flags.trace), flags.trace);
  return generateTrace({
    numExperts: flags.experts,
    layerBytes: Array.from({ length: flags.layers }, () => flags.layerBytes),
    numSequences: flags.sequences,
    seed: flags.seed,
    arrivalsPerStep: flags.arrivalsPerStep,
    meanPromptTokens: flags.promptTokens,
    meanOutputTokens: flags.outputTokens,
    locality: flags.locality,
  });
}

function drawn(flags: string, description: string, parse: (text: string) => number, value: number): Option {
  return new Option(flags, description).argParser(parse).default(value);
}
