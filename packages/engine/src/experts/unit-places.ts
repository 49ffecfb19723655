// Memory for units. A buffer that shrinks returns its pages to the system at once; other buffers return theirs when
// they are collected, at some time or never. The kernel and the file system accept both.

import { ReadMeError } from "@readme-moe/core";

/** Allocates memory for units. */
export interface Places {
  readonly bytes: number;
  /** Allocates memory. @throws {ReadMeError} `ERR_RUNTIME` if the system has none */
  take(bytes: number): Uint8Array;
  /** Takes back memory that `take` returned and that is not used any more. */
  release(memory: Uint8Array): void;
  setLimit(limitBytes: number): void;
}

/** Places of one size that are reused and never returned to the system: WebAssembly memory only grows. */
export class LastingPlaces implements Places {
  readonly #size: number;
  readonly #newMemory: (bytes: number) => Uint8Array;
  readonly #free: Uint8Array[] = [];
  #count = 0;

  /** @param size - bytes of the largest unit */
  constructor(size: number, newMemory: (bytes: number) => Uint8Array) {
    this.#size = size;
    this.#newMemory = newMemory;
  }

  get bytes(): number {
    return this.#count * this.#size;
  }

  take(bytes: number): Uint8Array {
    const place = this.#free.pop() ?? this.#grow();
    return place.subarray(0, bytes);
  }

  release(memory: Uint8Array): void {
    this.#free.push(new Uint8Array(memory.buffer, memory.byteOffset, this.#size));
  }

  setLimit(): void {
    // Free places are reused for the next units.
  }

  #grow(): Uint8Array {
    try {
      const memory = this.#newMemory(this.#size);
      this.#count++;
      return memory;
    } catch (cause) {
      throw new ReadMeError("ERR_RUNTIME", `There is no memory for ${this.#size} bytes of an expert`, { cause });
    }
  }
}

/** Places that return their memory to the system. */
export class UnitPlaces implements Places {
  readonly #largest: number;
  #limitBytes: number;
  /** Bytes of places in use and of free places. */
  #bytes = 0;
  /** The buffer of each place in use. */
  readonly #inUse = new Map<ArrayBufferLike, ArrayBuffer>();
  readonly #free: ArrayBuffer[] = [];
  readonly #empty: ArrayBuffer[] = [];

  /**
   * @param limitBytes - free places are given up before there are more bytes than this
   * @param largest - largest number of bytes of most places, for which buffers are made
   */
  constructor(limitBytes: number, largest: number) {
    this.#limitBytes = limitBytes;
    this.#largest = largest;
  }

  get bytes(): number {
    return this.#bytes;
  }

  take(bytes: number): Uint8Array {
    const fitting = this.#free.findIndex(({ byteLength }) => byteLength === bytes);
    const [free] = fitting >= 0 ? this.#free.splice(fitting, 1) : [];
    const buffer = free ?? this.#allocate(bytes);
    this.#inUse.set(buffer, buffer);
    return new Uint8Array(buffer, 0, bytes);
  }

  release(memory: Uint8Array): void {
    const buffer = this.#inUse.get(memory.buffer);
    if (!buffer) throw new Error("The memory was not taken from here, or was released before");
    this.#inUse.delete(buffer);
    this.#free.push(buffer);
    this.#giveUp(this.#limitBytes);
  }

  setLimit(limitBytes: number): void {
    this.#limitBytes = limitBytes;
    this.#giveUp(limitBytes);
  }

  #allocate(bytes: number): ArrayBuffer {
    this.#giveUp(this.#limitBytes - bytes);
    try {
      const fitting = this.#empty.findIndex(({ maxByteLength }) => maxByteLength >= bytes);
      const [empty] = fitting >= 0 ? this.#empty.splice(fitting, 1) : [];
      const buffer = empty ?? new ArrayBuffer(0, { maxByteLength: Math.max(bytes, this.#largest) });
      buffer.resize(bytes);
      this.#bytes += bytes;
      return buffer;
    } catch (cause) {
      throw new ReadMeError("ERR_RUNTIME", `There is no memory for ${bytes} bytes of an expert`, { cause });
    }
  }

  /** Returns free places to the system until at most `most` bytes are allocated, or no place is free. */
  #giveUp(most: number): void {
    while (this.#bytes > most) {
      const buffer = this.#free.pop();
      if (!buffer) return;
      this.#bytes -= buffer.byteLength;
      buffer.resize(0);
      this.#empty.push(buffer);
    }
  }
}
