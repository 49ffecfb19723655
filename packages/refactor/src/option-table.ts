// Options of the lab, and of its jobs.

import { type CheckedOf, checkedTable, rejectUnknownKeys, type ResolvedOf, type TableOption } from "@readme-moe/core";

/** An option of the lab: its values, and its flag on the command line. */
export interface LabOption extends TableOption {
  /** Help of the flag; options without it have none. */
  readonly about?: string;
  /** Default for the help, where `default` does not say it. */
  readonly otherwise?: string;
}

/** Options by name. */
export type LabTable = Readonly<Record<string, LabOption>>;

/**
 * Checks options one by one, and fills in the defaults that depend on nothing else.
 *
 * @param others - names of further options, which are not checked
 * @throws {TypeError | RangeError} naming the option, the expectation and the value
 */
export function checkedOptions<Table extends LabTable>(
  where: string,
  table: Table,
  options: object,
  others: readonly string[] = [],
): CheckedOf<Table> {
  rejectUnknownKeys(where, options, [...Object.keys(table), ...others]);
  return checkedTable(table, options);
}

/** Takes the options of a table out of an object that has more. */
export function pickOptions<Table extends LabTable>(table: Table, options: object): Partial<ResolvedOf<Table>> {
  const known = Object.entries(options).filter(([name, value]) => name in table && value !== undefined);
  return Object.fromEntries(known) as Partial<ResolvedOf<Table>>;
}

// Options of jobs that do not change the result.

/** Options of every job of the lab that do not change its result. */
export interface JobRun<Progress> {
  /** Name of the model in the report. @default the model's path */
  readonly source?: string | undefined;
  /** Resumes unfinished work for the same folder. @default false */
  readonly resume?: boolean | undefined;
  /** Threads of the inference runtime. @default all cores */
  readonly threads?: number | undefined;
  /** Stops the work; it can be resumed. */
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** Time between two checkpoints, about the work that a killed process loses. @default 300000; 30000 of layers */
  readonly checkpointMs?: number | undefined;
}

export const RUN_NAMES = ["source", "resume", "threads", "signal", "onProgress", "checkpointMs"] as const;
