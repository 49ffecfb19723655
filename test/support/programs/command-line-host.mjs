// A process that runs commands of the command line one after the other, since loading it takes longer than most of them.
//
//   command-line-host.mjs <module with `runCli`>
//
// It ends a call where its process would end: when nothing keeps the event loop alive.

import { Readable } from "node:stream";
import { pathToFileURL } from "node:url";

const { runCli } = await import(pathToFileURL(process.argv[2]).href);
const listeners = process.stdout.listenerCount("error");

for (const name of ["stdout", "stderr"]) {
  process[name].write = (chunk, encoding, written) => {
    const text = typeof chunk === "string" ? chunk : Buffer.from(chunk).toString();
    process.send({ name, text });
    process.nextTick((typeof encoding === "function" ? encoding : written) ?? (() => undefined));
    return true;
  };
}

process.on("message", async ({ args, env }) => {
  for (const name of Object.keys(process.env)) if (!(name in env)) delete process.env[name];
  Object.assign(process.env, env);
  Object.defineProperty(process, "stdin", { value: Readable.from([]), configurable: true });
  process.channel.unref();
  process.once("beforeExit", () => {
    process.channel.ref();
    for (const listener of process.stdout.listeners("error").slice(listeners)) process.stdout.off("error", listener);
    process.send({ code: process.exitCode });
  });
  process.exitCode = await runCli(args);
});
process.send("ready");
