// A server whose three clients begin four batches each, of many lines with long ids. Arguments: a folder and the number of
// lines. Prints the numbers of requests that the batches have, once all inputs are checked.

import { ReadMeEmitter } from "@readme-moe/core";
import { fetchHandler } from "@readme-moe/express/fetch";

const [, , folder = "", numLines = ""] = process.argv;
const CLIENTS = ["ann", "bob", "eve"];

/** An engine that has no room, so that no line runs. */
const engine = {
  info: { path: "/models/full", experts: [], maxNumSeqs: 1 },
  events: new ReadMeEmitter(),
  generate: () => undefined,
  stats: async () => ({ numRunning: 1, numWaiting: 0 }),
  whenFailed: () => new Promise(() => undefined),
  dispose: async () => undefined,
};
const keys = Object.fromEntries(CLIENTS.map((name) => [name, name]));
const api = fetchHandler({ engine: engine as never, keys, batches: { folder } });

interface Answer {
  readonly id: string;
  readonly status: string;
  readonly request_counts: { readonly total: number };
}

async function ask(client: string, path: string, type = "", init: RequestInit = {}): Promise<Answer> {
  const headers = { authorization: `Bearer ${client}`, "content-type": type };
  const answer = await api.fetch(new Request(`http://localhost/v1/${path}`, { ...init, headers }));
  if (answer.status !== 200) throw new Error(await answer.text());
  return (await answer.json()) as Answer;
}

function* form(): Generator<Uint8Array, void> {
  yield Buffer.from('--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n');
  yield Buffer.from('--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n');
  for (let index = 0; index < Number(numLines); index++) {
    const custom_id = `${index}`.padStart(512, "é");
    yield Buffer.from(`${JSON.stringify({ custom_id, method: "POST", url: "/v1/completions", body: {} })}\n`);
  }
  yield Buffer.from("\r\n--b--\r\n");
}

const batches = await Promise.all(
  CLIENTS.map(async (client) => {
    const content = { method: "POST", body: ReadableStream.from(form()), duplex: "half" } as const;
    const file = await ask(client, "files", "multipart/form-data; boundary=b", content);
    const body = JSON.stringify({ input_file_id: file.id, endpoint: "/v1/completions", completion_window: "24h" });
    const create = (): Promise<Answer> => ask(client, "batches", "application/json", { method: "POST", body });
    return Promise.all(Array.from({ length: 4 }, async () => ({ client, id: (await create()).id })));
  }),
);
const totals = await Promise.all(
  batches.flat().map(async ({ client, id }) => {
    for (;;) {
      const { status, request_counts } = await ask(client, `batches/${id}`);
      if (status !== "validating") return request_counts.total;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }),
);
console.log(JSON.stringify(totals));
process.exit();
