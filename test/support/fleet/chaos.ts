// Machines that are killed, frozen and drained at random, and come back, while a fleet works.

import { setTimeout as sleep } from "node:timers/promises";
import { killMachine, startMachine, type Machine, type MachineSetup } from "./machines.ts";

/** Event that happens to a machine. */
export type Fault = "killed" | "frozen" | "drained";

const FAULTS: readonly Fault[] = ["killed", "frozen", "drained"];

/** A number of machines of which one at a time has a fault. */
export class Chaos {
  readonly #setup: Omit<MachineSetup, "id">;
  readonly #random: () => number;
  readonly #machines: Machine[] = [];
  readonly faults: Record<Fault, number> = { killed: 0, frozen: 0, drained: 0 };
  #numStarted = 0;

  constructor(setup: Omit<MachineSetup, "id">, random: () => number) {
    this.#setup = setup;
    this.#random = random;
  }

  async start(count: number): Promise<void> {
    this.#machines.push(...(await Promise.all(Array.from({ length: count }, () => this.#startOne()))));
  }

  /**
   * Provokes the next fault on a machine, and lets it come back.
   *
   * @param frozenMs - time that a frozen one stands still
   * @param onFault - called right before it
   */
  async next(
    frozenMs: number,
    onFault: (fault: Fault, workerId: string) => Promise<void> | void = () => undefined,
  ): Promise<Fault> {
    const index = Math.floor(this.#random() * this.#machines.length);
    const machine = this.#machines[index];
    const total = this.faults.killed + this.faults.frozen + this.faults.drained;
    const fault = FAULTS[total % FAULTS.length] as Fault;
    this.faults[fault]++;
    if (!machine) return fault;
    await onFault(fault, machine.id);
    if (fault === "frozen") {
      machine.child.kill("SIGSTOP");
      await sleep(frozenMs);
      machine.child.kill("SIGCONT");
      return fault;
    }
    machine.child.kill(fault === "killed" ? "SIGKILL" : "SIGTERM");
    const code = await machine.ended;
    if (fault === "drained" && code !== 0) throw new Error(`A drained worker ended with ${code}: ${machine.errors()}`);
    this.#machines[index] = await this.#startOne();
    return fault;
  }

  async stop(): Promise<void> {
    await Promise.all(this.#machines.map(killMachine));
  }

  #startOne(): Promise<Machine> {
    return startMachine({ ...this.#setup, id: `machine-${++this.#numStarted}` });
  }
}
