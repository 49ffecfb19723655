// Memory that units lie in. Buffers that shrink give their pages back to the system at once, while others do so when
// they are collected, at some time or never; the runtime and the file system take them like any other.

import { ReadMeError } from "@readme-moe/core";

/** Of the ECMAScript of 2024; every Node that we run on has it. */
interface ResizableBuffer extends ArrayBuffer {
  resize(byteLength: number): void;
}

type ResizableBufferConstructor = new (
  byteLength: number,
  options: { readonly maxByteLength: number },
) => ResizableBuffer;

function newBuffer(maxByteLength: number): ResizableBuffer {
  return new (ArrayBuffer as unknown as ResizableBufferConstructor)(0, { maxByteLength });
}

/** Memory that units lie in, one after the other. */
export interface Places {
  /** Bytes that are taken from the system. */
  readonly bytes: number;
  /** @throws {ReadMeError} `ERR_RUNTIME` when the system has none */
  take(bytes: number): Uint8Array;
  /** Takes back what `take` gave; nobody reads or writes it any more. */
  release(memory: Uint8Array): void;
  setLimit(limitBytes: number): void;
}

/** Places of one size that are used again and never given back: memory of WebAssembly only grows. */
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
    // Free places are used again for the next units.
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

/** Places that give their memory back. */
export class UnitPlaces implements Places {
  readonly #largest: number;
  #limitBytes: number;
  /** Of places in use and of free ones. */
  #bytes = 0;
  readonly #free: ResizableBuffer[] = [];
  /** Without memory. */
  readonly #empty: ResizableBuffer[] = [];

  /**
   * @param limitBytes - free places are given up before there are more bytes than that
   * @param largest - bytes of a place at most
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
    if (fitting >= 0) return new Uint8Array(this.#free.splice(fitting, 1)[0] as ResizableBuffer, 0, bytes);
    this.#giveUp(this.#limitBytes - bytes);
    try {
      const buffer = this.#empty.pop() ?? newBuffer(this.#largest);
      buffer.resize(bytes);
      this.#bytes += bytes;
      return new Uint8Array(buffer, 0, bytes);
    } catch (cause) {
      throw new ReadMeError("ERR_RUNTIME", `There is no memory for ${bytes} bytes of an expert`, { cause });
    }
  }

  release(memory: Uint8Array): void {
    this.#free.push(memory.buffer as ResizableBuffer);
    this.#giveUp(this.#limitBytes);
  }

  setLimit(limitBytes: number): void {
    this.#limitBytes = limitBytes;
    this.#giveUp(limitBytes);
  }

  /** Gives free places back to the system until there are no more bytes than `most`, or none are free. */
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
