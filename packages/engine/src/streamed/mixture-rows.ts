import type { KvSlot } from "@readme-moe/kernel";
import type { KernelCall } from "../kernel-calls.ts";
import type { MixtureRows } from "./mixture-stream.ts";

/** Numbers the sequences of calls, so that a forecast recognises them in later steps. */
export class MixtureSequences {
  readonly #numbers = new WeakMap<KvSlot, number>();
  #count = 0;

  /** Describes the rows of a call. */
  rowsOf({ parts }: KernelCall): MixtureRows {
    const sequences: number[] = [];
    const wanted = new Set<number>();
    for (const { sequence, from, to, wanted: own } of parts) {
      for (const { token } of own) wanted.add(sequences.length + token - from);
      const number = this.#numberOf(sequence.slot);
      for (let token = from; token < to; token++) sequences.push(number);
    }
    return { sequences, wanted: Array.from(wanted).sort((a, b) => a - b) };
  }

  #numberOf(slot: KvSlot): number {
    let number = this.#numbers.get(slot);
    if (number === undefined) this.#numbers.set(slot, (number = this.#count++));
    return number;
  }
}
