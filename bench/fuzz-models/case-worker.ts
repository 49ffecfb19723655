// Runs cases in a process of its own, and notices when one ends or hangs it.

import { fork, type ChildProcess } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { CaseReport, FromWorker, NamedContent, Replayed, ToWorker } from "./messages.ts";

/** Heap of a process; what a case needs besides is judged by the process's memory. */
const HEAP_MB = 256;
/** Cases of two seconds of processor time take longer on a busy machine. */
const HANG_MS = 30_000;

export class CaseWorker {
  readonly #root: string;
  readonly #maxCaseMs: number;
  #process: ChildProcess | undefined;

  /**
   * @param root - folder of `writeBases`
   * @param maxCaseMs - processor time that a case may take
   */
  constructor(root: string, maxCaseMs: number) {
    this.#root = root;
    this.#maxCaseMs = maxCaseMs;
  }

  /** Runs cases `[from, from + count)`, each of which is reported, also if it ends the process. */
  async run(seed: number, from: number, count: number, report: (one: CaseReport) => void): Promise<void> {
    for (let next = from; next < from + count;) {
      // oxlint-disable-next-line no-await-in-loop -- the rest begins behind the case that ended the process
      const ended = await this.#send({ type: "run", seed, from: next, count: from + count - next }, (one) => {
        next = one.index + 1;
        report(one);
      });
      if (ended === undefined) return;
      report({ index: next, kind: "dense", way: "", outcome: "ended", ms: 0, problems: [ended] });
      next++;
    }
  }

  /** Runs one stored case. @param scratch - folder for its files */
  async replay({ kind, way, use, files }: Replayed, scratch: string): Promise<readonly string[]> {
    const copies: NamedContent[] = [];
    for (const [index, { name, content }] of files.entries()) {
      const copyOf = join(scratch, `${index}`);
      if (typeof content === "string") await writeFile(copyOf, Buffer.from(content, "base64"));
      copies.push([name, typeof content === "string" ? { copyOf } : (content.as as NamedContent[1])]);
    }
    const problems: string[] = [];
    const message = { type: "replay", case: { kind, way, use }, files: copies } as const;
    const ended = await this.#send(message, (report) => void problems.push(...report.problems));
    return ended === undefined ? problems : [ended];
  }

  close(): void {
    this.#process?.kill("SIGKILL");
    this.#process = undefined;
  }

  /** @returns how the process ended, if it did */
  async #send(message: ToWorker, report: (one: CaseReport) => void): Promise<string | undefined> {
    const child = (this.#process ??= await this.#start());
    return new Promise((resolve) => {
      let hang: NodeJS.Timeout | undefined;
      const watch = (): void => {
        clearTimeout(hang);
        hang = setTimeout(() => finish(`hung for ${HANG_MS / 1000} s`), HANG_MS);
      };
      const finish = (ended: string | undefined): void => {
        clearTimeout(hang);
        child.removeAllListeners();
        if (ended !== undefined) this.close();
        resolve(ended);
      };
      child.on("message", (received: FromWorker) => {
        watch();
        if (received.type === "case") report(received);
        if (received.type === "end") finish(undefined);
      });
      child.on("exit", (code, signal) => finish(`ended its process (${signal ?? code})`));
      watch();
      child.send(message);
    });
  }

  async #start(): Promise<ChildProcess> {
    const execArgv = [
      `--max-old-space-size=${HEAP_MB}`,
      "--expose-gc",
      "--conditions=@readme-moe/source",
      "--import",
      "tsx",
    ];
    const child = fork(join(import.meta.dirname, "worker.ts"), [this.#root, `${this.#maxCaseMs}`], {
      execArgv,
      stdio: ["ignore", "ignore", "pipe", "ipc"],
    });
    let said = "";
    child.stderr?.on("data", (data: Buffer) => void (said = `${said}${data.toString()}`.slice(-2000)));
    return new Promise((resolve, reject) => {
      child.once("message", () => {
        child.removeAllListeners("exit");
        resolve(child);
      });
      child.once("exit", () => reject(new Error(`A worker did not start: ${said}`)));
    });
  }
}
