// Makes all mistakes of a kernel's caller, see `kernel/misuse.ts`, and prints each that the kernel got over.

import { NATIVE_MISUSES } from "../kernel/misuse.ts";

for (const [name, misuse] of Object.entries(NATIVE_MISUSES)) {
  await misuse("native");
  console.log(name);
}
