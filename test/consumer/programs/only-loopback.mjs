// Loaded before a program: nothing in it may reach another machine. What tries is told to the file that READ_ME_REACHED names.

import { appendFileSync } from "node:fs";
import { Socket } from "node:net";

const connect = Reflect.get(Socket.prototype, "connect");
const LOOPBACK = /^(?:localhost|127\.\d+\.\d+\.\d+|::1)$/;

/** Takes what `net.connect` does, or that already sorted, as Node's own modules do. */
function hostOf(args) {
  const [first, second] = Array.isArray(args[0]) ? args[0] : args;
  if (typeof first === "object") return first.path ? undefined : (first.host ?? "localhost");
  const isPort = Number.isInteger(Number(first));
  return isPort ? (typeof second === "string" ? second : "localhost") : undefined;
}

Socket.prototype.connect = function (...args) {
  const host = hostOf(args);
  if (host !== undefined && !LOOPBACK.test(host)) {
    appendFileSync(process.env.READ_ME_REACHED, `${host}\n`);
    throw new Error(`${host} must not be reached`);
  }
  return Reflect.apply(connect, this, args);
};
