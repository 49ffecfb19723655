import { resolveStateFolder } from "@readme-moe/model";
import { Command } from "commander";
import { examples, jsonOption } from "../options.ts";
import { askServer, type ServerReport } from "../running/ask-server.ts";
import { readNotes, removeNote, type ServerNote } from "../running/server-notes.ts";
import { alignedTable, type Column, sizeText, timeText } from "../terminal.ts";

interface RunningServer extends ServerNote, ServerReport {}

export function psCommand(): Command {
  return new Command("ps")
    .summary("list the servers that run on this machine")
    .description(
      "Lists the servers of this user that `readme-moe serve` runs on this machine, the oldest first: address, model, state, " +
        "memory of the server and its engine, start, and requests (running + waiting). Each server is asked.",
    )
    .addOption(jsonOption())
    .addHelpText("after", examples("readme-moe ps", "readme-moe ps --json"))
    .action(async ({ json }: { readonly json: boolean }) => {
      const servers = await runningServers(resolveStateFolder());
      if (json) return console.log(JSON.stringify({ servers: servers.map(serverJson) }));
      if (servers.length === 0)
        return console.log(
          "no servers run here; `readme-moe serve <model>` starts one (servers of other programs are not listed)",
        );
      for (const line of alignedTable(COLUMNS, servers)) console.log(line);
    });
}

async function runningServers(stateFolder: string): Promise<readonly RunningServer[]> {
  const filed = await readNotes(stateFolder);
  const servers = await Promise.all(
    filed.map(async ({ path, note }) => {
      const report = await askServer(note);
      if (report !== undefined) return { ...note, ...report };
      // Another program has the number of a server that was killed.
      await removeNote(path);
      return undefined;
    }),
  );
  return servers.filter((server) => server !== undefined);
}

const COLUMNS: readonly Column<RunningServer>[] = [
  ["address", ({ url }) => url, "left"],
  ["model", ({ model, models = [model] }) => models.join(", "), "left"],
  ["memory", ({ memoryBytes }) => (memoryBytes === undefined ? "?" : sizeText(memoryBytes))],
  ["since", ({ sinceMs }) => timeText(sinceMs)],
  ["requests", ({ running, queued }) => (running === undefined ? "?" : `${running} + ${queued ?? 0}`)],
  ["pid", ({ pid }) => `${pid}`],
  ["state", ({ state }) => state, "left"],
];

function serverJson({ pid, url, model, models, state, memoryBytes, sinceMs, running, queued }: RunningServer): object {
  return {
    pid,
    url,
    model,
    ...(models && { models }),
    state,
    memory_bytes: memoryBytes ?? null,
    since: new Date(sinceMs).toISOString(),
    requests: { running: running ?? null, queued: queued ?? null },
  };
}
