// A lock between processes: a file with the number of the process that has it.

import fs from "node:fs";
import { setTimeout } from "node:timers/promises";

const ASK_MS = 500;

/**
 * Takes a lock, after waiting for the process that has it. The lock of a process that has ended does not count. Two
 * processes at once are rare, so a folder that cannot be written does not prevent the only one.
 *
 * @param {string} path - file that exists while a process has the lock
 * @param {(pid: number) => void} onWait - called once when another process has it
 * @returns {Promise<() => void>} releases it
 */
export async function locked(path, onWait) {
  for (let isFirst = true; ; isFirst = false) {
    try {
      fs.writeFileSync(path, String(process.pid), { flag: "wx" });
      return () => fs.rmSync(path, { force: true });
    } catch (error) {
      if (error.code !== "EEXIST") return () => undefined;
    }
    const pid = ownerOf(path);
    if (pid === undefined) fs.rmSync(path, { force: true });
    else {
      if (isFirst) onWait(pid);
      await setTimeout(ASK_MS);
    }
  }
}

/** Reads the process that has a lock; `undefined` if it has ended. */
function ownerOf(path) {
  let pid;
  try {
    pid = Number(fs.readFileSync(path, "utf8"));
    process.kill(pid, 0);
    return pid;
  } catch (error) {
    // A process of another user.
    return error.code === "EPERM" ? pid : undefined;
  }
}
